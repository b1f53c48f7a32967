"""To which addresses a webhook may lead.

The operator's list decides by name, when a policy is read. Whoever answers for a name can later lead it elsewhere (DNS
rebinding), so what it leads to is looked at on each connection, and the connection goes to an address that was.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from lec_guard.act.webhook.errors import WebhookError

Resolver = Callable[[str, int], Sequence[str]]
"""Host and port -> addresses; raises `OSError` where there are none."""

_METADATA = frozenset(
    ip_address(address)
    # Amazon and Google over IPv6, Alibaba, Oracle, Azure.
    for address in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that gateways translate to IPv4 (RFC 6052)."""

_COMPATIBLE = IPv6Network("::/96")
"""IPv6 addresses that hold an IPv4 one in an old way (RFC 4291, 2.5.5.1)."""

_HERE = IPv4Network("0.0.0.0/8")
"""Some systems take all of these for the machine itself."""

_MOST = 8
"""Addresses of one name that are tried."""


def system_resolver(host: str, port: int) -> list[str]:
    """What the system says. May take long, and can't be cut short.

    Args:
        host: A name.
        port: A port.

    Returns:
        Addresses, the best first.

    Raises:
        OSError: If there are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def literal(host: str) -> str | None:
    """A host that is an address itself; None for a name."""
    try:
        return str(ip_address(host.strip("[]")))
    except ValueError:
        return None


def is_this_machine(host: str) -> bool:
    """Whether a URL names this machine: `localhost`, 127.x.x.x or ::1."""
    address = literal(host)
    return host.lower() == "localhost" or (address is not None and ip_address(address).is_loopback)


def check_addresses(host: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """Refuse a host that leads to where no webhook is.

    Private addresses are fine: operators have webhooks there. This machine is only for URLs that name it.

    Args:
        host: As the URL has it.
        addresses: What it leads to. One that may not be reached is enough to refuse all.

    Returns:
        The addresses to connect to, the best first.

    Raises:
        WebhookError: If one is link-local, unspecified, multicast or reserved, keeps a cloud's credentials, or is this
            machine's and the URL does not say so.
    """
    checked: list[str] = []
    for address in addresses:
        try:
            found = ip_address(address)
        except ValueError:
            raise WebhookError(f"{host} leads to what is no address") from None
        if any(_is_refused(one, is_this_machine(host)) for one in _meant(found)):
            raise WebhookError(f"{host} leads to {found}, which no webhook may reach")
        checked.append(address)
    return tuple(checked[:_MOST])


def _meant(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """The address, and those of IPv4 that it stands for."""
    if isinstance(address, IPv4Address):
        return [address]
    # Without a zone (fe80::1%eth0), which is no part of the address.
    bare = IPv6Address(int(address))
    meant: list[IPv4Address | IPv6Address] = [bare]
    meant += [one for one in (bare.ipv4_mapped, bare.sixtofour, *(bare.teredo or ())) if one is not None]
    if bare in _TRANSLATED or (bare in _COMPATIBLE and int(bare) > 1):
        meant.append(IPv4Address(int(bare) & 0xFFFFFFFF))
    return meant


def _is_refused(address: IPv4Address | IPv6Address, here: bool) -> bool:
    if isinstance(address, IPv4Address) and (address.is_reserved or address in _HERE):
        return True
    return (
        address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address in _METADATA
        or (address.is_loopback and not here)
    )
