"""Every mistake of a folder of policies at once, even where one file keeps the others from being loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lec_guard.errors import LecGuardError, PolicyError
from lec_guard.policy.folder import BUILTIN_NAME, FLOOR, Listing, files_of, list_folder
from lec_guard.policy.resolve import Source, follow, read_source
from lec_guard.policy.store import FindHeads, PolicyStore, make_ready


@dataclass(frozen=True, slots=True)
class Checked:
    """What a folder of policies holds.

    Attributes:
        mistakes: What is wrong, a line each.
        shared: How many policies are no tenant's, without the packaged one.
        tenants: How many tenants there are.
        floor: Whether there is a floor.
    """

    mistakes: tuple[str, ...]
    shared: int
    tenants: int
    floor: bool


def check_policies(path: Path, heads: FindHeads) -> Checked:
    """Read every policy, and make it ready for its detector.

    Args:
        path: The folder; or one policy file.
        heads: What detectors give.

    Returns:
        What is wrong, and how much there is.

    Raises:
        PolicyError: If there is no such folder or file.
    """
    listing = list_folder(path)
    try:
        store = PolicyStore(path, heads)
    except LecGuardError as error:
        mistakes = [*str(error).splitlines(), *listing.problems, *_one_by_one(listing, heads)]
    else:
        mistakes = store.check()
    return Checked(
        mistakes=tuple(dict.fromkeys(mistakes)),
        shared=len(listing.shared) - 1,
        tenants=len(listing.tenants),
        floor=FLOOR in listing.shared,
    )


class _Broken(Exception):
    """A policy inherits from one whose own mistakes are told."""


def _one_by_one(listing: Listing, heads: FindHeads) -> list[str]:
    """The mistakes of each policy, apart from what it inherits from a broken one."""
    mistakes: list[str] = []
    sources: dict[str, Source | None] = {}
    for name, file in files_of(listing):
        tenant = listing.tenants.get(name.partition("/")[0])
        try:
            sources[name] = read_source(_own(name), file, tenant.folder if tenant else listing.root)
        except PolicyError as error:
            sources[name] = None
            mistakes += str(error).splitlines()
    default = sources[listing.default]
    if default is None:  # Nobody knows then which hosts are allowed.
        return mistakes
    for name in [name for name, source in sources.items() if source is not None and name != BUILTIN_NAME]:
        try:
            chain = follow(_own(name), partial(_find, listing, sources, name), lambda: listing.shared)
            make_ready(_own(name), chain, default.file.allowed_hosts or (), heads)
        except _Broken:
            continue
        except PolicyError as error:
            mistakes += str(error).splitlines()
    return mistakes


def _own(name: str) -> str:
    """What a policy is called in its own folder."""
    return name.rpartition("/")[2]


def _find(listing: Listing, sources: Mapping[str, Source | None], name: str, wanted: str) -> Source | None:
    """A policy that another one means: its tenant's own, or a shared one."""
    tenant = name.partition("/")[0]
    files = listing.tenants.get(tenant)
    own = files.own(tenant, wanted) if files else None
    if files and own is not None:
        key = tenant if own == files.file else f"{tenant}/{wanted}"
    elif wanted in listing.shared:
        key = wanted
    else:
        return None
    found = sources[key]
    if found is None:
        raise _Broken
    return found
