"""Where policies lie: a folder of shared ones, and one of tenants."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from lec_guard.errors import PolicyError
from lec_guard.policy.schema import NAME

BUILTIN = Path(__file__).parent / "default.yaml"
"""The packaged policy."""

BUILTIN_NAME = "builtin"
DEFAULT = "default"
FLOOR = "floor"
MAIN = "policy"
"""The file of a tenant's folder that is its policy."""

TENANTS = "tenants"
CASES = "cases"

ENDINGS = (".yaml", ".yml")
"""What the name of a policy file ends in."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """The files of a tenant.

    Attributes:
        file: Its policy.
        folder: What its paths are relative to: its own folder, or that of the shared policies where it has none.
        others: Name -> policies beside it in its own folder.
    """

    file: Path
    folder: Path
    others: Mapping[str, Path] = field(default_factory=dict)

    def own(self, tenant: str, name: str) -> Path | None:
        """The file of a policy of its own.

        Args:
            tenant: What the tenant is called.
            name: That for its policy, `policy` if it has a folder of its own, or the name of one beside it.

        Returns:
            The file; None where it has no such policy.
        """
        has_folder = self.file.parent == self.folder
        return self.file if name == tenant or (name == MAIN and has_folder) else self.others.get(name)


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a folder of policies, unread.

    Attributes:
        root: The folder; of a single file the one where it lies.
        default: The name of the policy that steps without a tenant get.
        shared: Name -> file, `builtin` among them.
        tenants: Name -> files.
        problems: What can't be a policy, or whose; a line each.
        unclear: Name -> the one of these lines that says why nobody knows what the policy of this name is.
    """

    root: Path
    default: str
    shared: Mapping[str, Path]
    tenants: Mapping[str, Tenant]
    problems: tuple[str, ...]
    unclear: Mapping[str, str] = field(default_factory=dict)

    def is_unknown(self, tenant: str) -> bool:
        """Whether nothing lies here for a tenant; whose files are unclear has some."""
        return tenant not in self.tenants and tenant not in self.unclear


def is_name(tenant: object) -> TypeGuard[str]:
    """Whether something could be a tenant's name.

    Args:
        tenant: What somebody says it is.

    Returns:
        Whether it could.
    """
    # fullmatch: `$` would let a name end in a newline.
    return isinstance(tenant, str) and re.fullmatch(NAME, tenant) is not None


def check_name(tenant: object) -> str:
    """A tenant's name, if it could be one.

    Args:
        tenant: What somebody says it is.

    Returns:
        The same.

    Raises:
        PolicyError: If it is no such name; a path, for example.
    """
    if not is_name(tenant):
        shown = repr(tenant[:200] if isinstance(tenant, str) else type(tenant).__name__)
        raise PolicyError(f"{shown} can't be the name of a tenant: letters, digits, '.', '_' and '-' only")
    return tenant


def list_folder(path: Path) -> Listing:
    """List policies; no file is opened, so that ten thousand take a moment.

    Args:
        path: A folder with `default.yaml` and perhaps `floor.yaml`, others that policies extend, and `tenants/`;
            or one policy file, which is then the default.

    Returns:
        What lies there.

    Raises:
        PolicyError: If there is no such folder or file, or no `default.yaml` in it.
    """
    if path.is_file():
        _check_stem(path)
        if path.stem == BUILTIN_NAME:
            raise PolicyError(_taken(path))
        return Listing(path.parent, path.stem, {path.stem: path, BUILTIN_NAME: BUILTIN}, {}, ())
    if not path.is_dir():
        raise PolicyError(f"{path}: no such policy file or folder")
    problems = _Problems()
    shared = {BUILTIN_NAME: BUILTIN} | _policies(path, problems, {BUILTIN_NAME: BUILTIN}, (DEFAULT, FLOOR))
    if DEFAULT not in shared:
        raise PolicyError(
            "\n".join((f"{path}: no default.yaml here; it is what steps without a tenant get", *problems))
        )
    folder = path / TENANTS
    if not folder.is_dir() and os.path.lexists(folder):
        raise PolicyError(f"{folder}: is no folder that can be read; tenants have their policies there")
    tenants = _tenants(folder, problems, shared) if folder.is_dir() else {}
    return Listing(path, DEFAULT, shared, tenants, tuple(problems), problems.unclear)


class _Problems(list[str]):
    """Lines to tell, and the names whose policy is unclear for one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.unclear: dict[str, str] = {}

    def add(self, line: str, name: str | None = None) -> None:
        self.append(line)
        if name is not None:
            self.unclear[name] = line


def _tenants(folder: Path, problems: _Problems, shared: Mapping[str, Path]) -> dict[str, Tenant]:
    """The files of every tenant."""
    tenants: dict[str, Tenant] = {}
    for entry in _entries(folder):
        file, is_folder = Path(entry.path), _is(entry.is_dir)
        name = entry.name if is_folder else file.stem
        if not is_folder and file.suffix not in ENDINGS:
            problems.add(f"{file}: not a policy; {TENANTS}/ holds a .yaml file or a folder for each tenant, no more")
        elif not re.fullmatch(NAME, name):
            problems.add(_bad_name(file))
        elif name in shared:
            problems.add(f"{file}: {shared[name]} has the same name; rename one of them", name)
        elif name in tenants:
            problems.add(f"{file}: {tenants[name].file} is the same tenant's; keep one of them", name)
        elif is_folder:
            try:
                own = _policies(file, problems, {**shared, name: file / f"{MAIN}.yaml"}, (MAIN,), name)
            except PolicyError as error:
                problems.add(str(error), name)
                continue
            if MAIN in own:
                tenants[name] = Tenant(own.pop(MAIN), file, own)
            else:
                problems.add(f"{file}: no {MAIN}.yaml here; it is what the tenant {name!r} gets", name)
        else:
            tenants[name] = Tenant(file, folder.parent)
    return tenants


def files_of(listing: Listing) -> Iterator[tuple[str, Path]]:
    """Every policy of a folder.

    Args:
        listing: What lies there.

    Yields:
        Its name, `TENANT/NAME` for one that lies beside the tenant's policy in its own folder, and its file.
    """
    yield from listing.shared.items()
    for tenant, files in listing.tenants.items():
        yield tenant, files.file
        yield from ((f"{tenant}/{name}", file) for name, file in files.others.items())


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder, without what editors and mounts hide there."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise PolicyError(f"{folder}: can't be read: {error.strerror}") from None
    yield from sorted(found, key=lambda entry: entry.name)


def _is(what: Callable[[], bool]) -> bool:
    """Ask about a file; one that can't be asked about, as a link to itself, is left for whoever reads it to tell."""
    try:
        return what()
    except OSError:
        return False


def _policies(
    folder: Path, problems: _Problems, taken: Mapping[str, Path], special: tuple[str, ...], tenant: str | None = None
) -> dict[str, Path]:
    """The policy files right in a folder, which may be a tenant's; `special` names mean something there."""
    found: dict[str, Path] = {}
    for entry in _entries(folder):
        file = Path(entry.path)
        if file.suffix.lower() not in ENDINGS or file.stem == CASES:
            continue
        name = file.stem
        # A floor that is overlooked for its spelling would be none.
        meant = name.lower() if name.lower() in special else name
        if not _is(entry.is_file):
            problems.add(f"{file}: ends like a policy, and is no file that can be read", tenant or name)
        elif name == BUILTIN_NAME:
            problems.add(_taken(file))
        elif file.name != (spelled := f"{meant}{file.suffix.lower()}"):
            problems.add(f"{file}: call it {spelled}; capitals count", tenant or meant)
        elif not re.fullmatch(NAME, name):
            problems.add(_bad_name(file))
        elif name in found or name in taken:
            same = found.get(name) or taken[name]
            problems.add(f"{file}: {same} has the same name; rename one of them", tenant or name)
        else:
            found[name] = file
    return found


def _check_stem(file: Path) -> None:
    if not re.fullmatch(NAME, file.stem):
        raise PolicyError(_bad_name(file))


def _bad_name(file: Path) -> str:
    return f"{file}: a policy's file name may have letters, digits, '.', '_' and '-' only"


def _taken(file: Path) -> str:
    return f"{file}: the name {BUILTIN_NAME!r} is taken by the packaged policy; rename the file"
