"""Where policies may reach: hosts of an operator's list, and files inside the folder of policies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field

from lec_guard.errors import PolicyError

Host = Annotated[
    str, Field(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$|^\[[0-9a-f:]+\](:[0-9]{1,5})?$")
]
"""`hooks.example.com`, `*.example.com` (any name below it), or either with a port; without one, the usual port."""

_PORTS = {"https": 443, "http": 80, "postgresql": 5432, "postgresql+psycopg": 5432}

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
"""What a host may look like that is no IPv6 address. One that is percent-encoded or in another script could be read as
another host by who connects."""

_OPTIONS = frozenset({"application_name", "connect_timeout", "sslmode"})
"""What may stand behind the `?` of a database's URL; `host=` there would be another host."""

_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})

_METADATA_ADDRESSES = frozenset(
    ip_address(address)
    # Amazon and Google over IPv6, Alibaba, Oracle, Azure.
    for address in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that gateways translate to IPv4 (RFC 6052)."""


def check_url(url: str, hosts: Sequence[str], where: str, schemes: Sequence[str] = ("https",)) -> None:
    """Refuse a URL that an operator did not allow.

    The list decides by name and port. Plain http is for hosts of this machine alone, and addresses where clouds keep
    credentials are never reached, listed or not. To what address a name leads is not looked up here.

    Args:
        url: What a policy says.
        hosts: The operator's list.
        where: Where the policy says so, for the error.
        schemes: What the URL may begin with.

    Raises:
        PolicyError: If it may not be reached; says why, and how to allow it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise PolicyError(f"{where}: not a URL: {error}") from None
    if any(character.isspace() or not character.isprintable() or character == "\\" for character in url) or not host:
        raise PolicyError(f"{where}: not a URL with a host")
    if parts.username is not None or parts.password is not None:
        raise PolicyError(f"{where}: no user name or password in a URL; give secrets by the name of a variable")
    address = _address(host)
    if address is None and (parts.netloc.startswith("[") or not _NAME.fullmatch(host)):
        raise PolicyError(f"{where}: {host!r} is no name of a host: a-z, 0-9, '.' and '-' only, other scripts as xn--…")
    is_here = host == "localhost" or (address is not None and address.is_loopback)
    if parts.scheme not in schemes and not (parts.scheme == "http" and "https" in schemes and is_here):
        raise PolicyError(f"{where}: must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if address is None and _is_number(host):
        raise PolicyError(f"{where}: {host!r} is an address in an odd spelling; write it as four numbers")
    if host in _METADATA_NAMES or (address is not None and _is_metadata(address)):
        raise PolicyError(f"{where}: {host} is where clouds keep credentials, which no policy may reach")
    _check_options(parts.scheme, parts.query, where)
    usual = _PORTS[parts.scheme]
    if not any(_allows(entry, host, usual if port is None else port, usual) for entry in hosts):
        raise PolicyError(
            f"{where}: the host {parts.netloc!r} is not on the operator's list; "
            f"add it to allowed_hosts in default.yaml if policies may reach it"
        )


def _check_options(scheme: str, query: str, where: str) -> None:
    if not scheme.startswith("postgresql"):
        return
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise PolicyError(f"{where}: no {name!r} in a database's URL; known: {', '.join(sorted(_OPTIONS))}")


def _allows(entry: str, host: str, port: int, usual: int) -> bool:
    name, colon, digits = ("", "", "") if entry.endswith("]") else entry.rpartition(":")
    name = (name if colon else entry).strip("[]")
    if port != (int(digits) if colon else usual):
        return False
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_number(host: str) -> bool:
    """Whether resolvers take it for an address: 0xa9fea9fe, 2852039166, 169.254.43518."""
    last = host.rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")


def _is_metadata(address: IPv4Address | IPv6Address) -> bool:
    """Whether a cloud answers there, by whichever spelling: link-local addresses, and some others."""
    meant = [address]
    if isinstance(address, IPv6Address):
        # Without a zone (fe80::1%eth0), which is no part of the address.
        meant = [IPv6Address(int(address))]
        meant += [one for one in (address.ipv4_mapped, address.sixtofour) if one is not None]
        if meant[0] in _TRANSLATED:
            meant.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return any(one.is_link_local or one in _METADATA_ADDRESSES for one in meant)


def inside(folder: Path, path: str, where: str) -> Path:
    """A file or folder that a policy names.

    Args:
        folder: It lies here or below.
        path: Relative to that.
        where: Where the policy says so, for the error.

    Returns:
        The path; nothing may be there yet.

    Raises:
        PolicyError: If it would lie outside, or among a tenant's files.
    """
    relative = Path(path)
    outside = PolicyError(f"{where}: {path!r} must be a path below {folder}")
    if relative.is_absolute() or ".." in relative.parts or "\\" in path or not path.isprintable():
        raise outside
    # Links are followed here, so that none leads to where no path may.
    root, found = folder.resolve(), (folder / relative).resolve()
    if not found.is_relative_to(root):
        raise outside
    if any(parts[:1] == ("tenants",) for parts in (relative.parts, found.relative_to(root).parts)):
        raise PolicyError(f"{where}: {path!r} belongs to a tenant; give it the tenant's own folder, or share it")
    return folder / relative
