"""A tenant's policy as a calibration needs it: read whether or not an earlier one can still be used."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from lec_guard.detect.detector import Detector
from lec_guard.detect.pool import DetectorPool
from lec_guard.errors import PolicyError, UnsupportedValueError
from lec_guard.guard import heads_of
from lec_guard.policy.calibration import Calibration
from lec_guard.policy.compile import Compiled, Heads, compile_policy
from lec_guard.policy.folder import Tenant, check_name, list_folder
from lec_guard.policy.reach import inside
from lec_guard.policy.resolve import Source, follow, read_source, resolve
from lec_guard.policy.schema import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPolicy:
    """A policy whose budgets can be taken from its tenant's traffic.

    Attributes:
        name: The tenant's name, or the policy's that steps without a tenant get.
        folder: What its paths are relative to.
        live: As it is in force.
        heads: What its detector gives.
        detector: Its detector.
        file: Where its calibration lies, or is to lie.
        is_named: Whether the policy's own file names that already.
        stale: Why an earlier calibration is not in force; None where it is, or there is none.
    """

    name: str
    folder: Path
    live: Compiled
    heads: Heads
    detector: Detector
    file: Path
    is_named: bool
    stale: str | None


def read_tenant(path: Path, tenant: str | None, detector: Detector) -> TenantPolicy:
    """Read a tenant's policy, whether or not an earlier calibration of it can still be used.

    Args:
        path: A folder with policies, or one policy file.
        tenant: The tenant; None for the policy that steps without a tenant get.
        detector: What reads for all tenants without a detector of their own.

    Returns:
        The policy.

    Raises:
        PolicyError: If there is no such policy, or it is wrong.
        BundleError: If the tenant's own detector can't be loaded.
    """
    listing = list_folder(path)
    if tenant is None:
        name, files = listing.default, Tenant(listing.shared[listing.default], listing.root)
    elif check_name(tenant) in listing.tenants:
        name, files = tenant, listing.tenants[tenant]
    else:
        raise PolicyError(f"{path}: no tenant {tenant!r}{nearest(tenant, sorted(listing.tenants))}")

    def find(wanted: str) -> Source | None:
        own = None if tenant is None else files.own(name, wanted)
        if own is not None:
            return read_source(wanted, own, files.folder)
        return read_source(wanted, listing.shared[wanted], listing.root) if wanted in listing.shared else None

    chain = follow(name, find, lambda: [*listing.shared, *files.others])
    default = find(listing.default)
    hosts = (default.file.allowed_hosts if default else None) or ()
    bare = resolve(name, [_bare(link) for link in chain], hosts)
    ref = bare.detector
    asked = detector if ref is None else DetectorPool(detector).get(ref.folder, ref.id, beside=ref.beside)
    heads = heads_of(asked)
    stale = None
    try:
        live = compile_policy(resolve(name, chain, hosts), heads)
    except PolicyError as error:
        live, stale = compile_policy(bare, heads), str(error)  # What is wrong beside it is told here.
    said = chain[0].file.calibration
    return TenantPolicy(
        name=name,
        folder=files.folder,
        live=live,
        heads=heads,
        detector=asked,
        file=_place(name, files.folder, listing.root)
        if said is None
        else inside(files.folder, said, chain[0].where("calibration")),
        is_named=said is not None,
        stale=stale,
    )


def _bare(link: Source) -> Source:
    return replace(link, file=link.file.model_copy(update={"calibration": None}))


def _place(name: str, folder: Path, root: Path) -> Path:
    return root / "calibrations" / f"{name}.json" if folder == root else folder / f"{name}.calibration.json"


def write_calibration(calibration: Calibration, file: Path) -> None:
    """Write a calibration in one step: whoever reads the file meanwhile reads the old one, or the new.

    Args:
        calibration: What is to be written.
        file: Where to.

    Raises:
        UnsupportedValueError: If the file can't be written.
    """
    beside = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as opened:
            opened.write(calibration.model_dump_json(indent=1) + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(file)
    except OSError as error:
        raise UnsupportedValueError(f"{file}: can't be written: {error.strerror}") from None
