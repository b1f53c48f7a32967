"""The policies of all tenants: read when they are needed, kept within bounds, renewed without a gap."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lec_guard.errors import LecGuardError, PolicyError
from lec_guard.policy.compile import Compiled, Heads, compile_policy
from lec_guard.policy.document import read_file
from lec_guard.policy.folder import (
    BUILTIN,
    BUILTIN_NAME,
    DEFAULT,
    FLOOR,
    Listing,
    Tenant,
    check_name,
    files_of,
    is_name,
    list_folder,
)
from lec_guard.policy.guidance import GuidanceByOrigin, GuidanceRule, bounded
from lec_guard.policy.reach import inside
from lec_guard.policy.resolve import DetectorRef, Policy, Source, follow, read_source, resolve
from lec_guard.policy.schema import nearest
from lec_guard.step import Trust

EAGER = 100
"""So many tenants are read at load, so that a mistake is told then; of more, each is read at its first step."""

MOST = 1024
"""Tenants whose policies are kept ready."""

_KEPT = 64 << 20
"""Bytes of tenants' files that are kept, so that a tenant that comes back gets the version that was in force. Of more,
those of the tenants that were read longest ago are read again when they are needed."""

Find = Callable[[str], Source | None]
"""Finds the policy of a name, if there is one that may be extended."""

FindHeads = Callable[[DetectorRef | None], Heads]
"""What a policy that asks for this detector can read; raises a LecGuardError where it can't be had."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The policies that a step is judged by. Immutable: a check ends by what it began with.

    Attributes:
        live: The tenant's own, or the default one.
        floor: What holds for every tenant, whatever its policy says; None without one.
        candidate: What is only told.
    """

    live: Compiled
    floor: Compiled | None = None
    candidate: Compiled | None = None

    def guidance(self, trust: Trust | None) -> GuidanceRule | None:
        """How far a local model's answer is to be led away from its negative prompt.

        Args:
            trust: Who wrote the least trusted text of the conversation, as `lec_guard.policy.guidance.least_trusted`
                finds it; None where that is not known: then the highest coefficient of each policy holds.

        Returns:
            The higher of what policy and floor say, as far as they act; None where neither says anything.
        """
        return bounded(acting_guidance(self.live), acting_guidance(self.floor), trust)

    def least_guidance(self, trust: Trust | None) -> GuidanceRule | None:
        """What the floor says alone.

        Args:
            trust: As of `guidance`.

        Returns:
            What no policy of a tenant gets below; None where the floor says nothing, or does not act.
        """
        return bounded(None, acting_guidance(self.floor), trust)


def acting_guidance(one: Compiled | None) -> GuidanceByOrigin | None:
    """What a policy says of guidance.

    Args:
        one: The policy; None for none.

    Returns:
        All of it; None where it says nothing, or only watches.
    """
    return None if one is None or one.policy.mode == "shadow" else one.policy.guidance


@dataclass(frozen=True, slots=True)
class Renewed:
    """A policy that came into force.

    Attributes:
        name: Its name.
        version: Its version.
        before: The version before it.
    """

    name: str
    version: str
    before: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A change that was not taken: what was in force still is.

    Attributes:
        name: The policy's or file's name.
        reason: Why; a line each mistake.
        version: The version that stays in force; None where none was read yet, and the tenant's steps are refused.
    """

    name: str
    reason: str
    version: str | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload did.

    Attributes:
        renewed: What came into force.
        refused: What did not.
    """

    renewed: tuple[Renewed, ...] = ()
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all policies may lean on.

    Attributes:
        sources: Name -> the shared policy.
        hosts: The hosts that URLs may name.
        contents: The files that the shared policies name.
    """

    sources: Mapping[str, Source]
    hosts: tuple[str, ...]
    contents: Mapping[Path, bytes]


@dataclass(frozen=True, slots=True)
class _Made:
    """What the version of a tenant's policy was made of that is in force.

    It can be made again of that, whatever lies on disk by then.

    Attributes:
        files: Where its files lay.
        contents: What stood in them.
        shared: What it leant on.
        versions: The names of its live policy and of its candidate -> their versions.
    """

    files: Tenant
    contents: Mapping[Path, bytes]
    shared: _Shared
    versions: Mapping[str, str]

    def is_still_on_disk(self, files: Tenant, shared: _Shared) -> bool:
        """Whether nothing changed since."""
        if files != self.files or shared is not self.shared:
            return False
        try:
            return all(read_file(file) == content for file, content in self.contents.items())
        except PolicyError:
            return False


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A tenant's policies that were just made, and what of."""

    made: _Made
    live: Compiled
    candidate: Compiled | None


@dataclass(slots=True)
class _State:
    """Everything of one moment. Only the tenants that are kept ready change in it, under its lock."""

    listing: Listing
    shared: _Shared
    default: InForce
    ready: OrderedDict[str, InForce] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def unknown(self) -> str | None:
        """What a tenant without a file gets."""
        return self.shared.sources[self.listing.default].file.unknown_tenant


@dataclass(slots=True)
class _News:
    """What a reload finds out."""

    renewed: list[Renewed] = field(default_factory=list)
    refused: dict[str, Refused] = field(default_factory=dict)

    def note(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        self.renewed += [
            Renewed(name, version, before.get(name, "")) for name, version in now.items() if before.get(name) != version
        ]

    def refuse(self, name: str, reason: object, version: str | None) -> None:
        self.refused[name] = Refused(name, str(reason), version)


class PolicyStore:
    """Which policies a tenant's steps are judged by. Safe to share between threads.

    Args:
        path: A folder with `default.yaml` and perhaps `floor.yaml`, others that they extend, and `tenants/`; or one
            policy file, which is then the default; or None for the packaged default.
        heads: What detectors give.
        most: Tenants whose policies are kept ready.
        fits: Refuses a policy that asks for what the application has not; None where that does not matter.

    Raises:
        PolicyError: If a file is missing or wrong; every wrong line of a file is told. Of more than `EAGER` tenants
            each is read at its first step, and `lec-guard policy check` reads all.
    """

    def __init__(
        self,
        path: str | Path | None,
        heads: FindHeads,
        *,
        most: int = MOST,
        fits: Callable[[Policy], None] | None = None,
    ) -> None:
        self.path = BUILTIN if path is None else Path(path)
        self._heads = heads
        self._fits = fits
        self._most = most
        self._loading = threading.RLock()
        # Under that lock: what tenants' policies were made of, and what was told of changes that are not in force.
        self._made: OrderedDict[str, _Made] = OrderedDict()
        self._bytes = 0
        self._told: dict[str, str] = {}
        self._state = self._first()

    def get(self, tenant: str | None) -> InForce:
        """The policies of a tenant.

        Args:
            tenant: The tenant; None for none.

        Returns:
            What its steps are judged by; the default policy where there is no tenant.

        Raises:
            PolicyError: If the tenant is unknown and `default.yaml` does not say what it gets, its policy is wrong,
                or the name could not be a tenant's.
        """
        found = self.ready(tenant)
        if found is not None:
            return found
        state = self._state
        name = check_name(tenant)
        if name in state.listing.tenants:
            return self._get(name)
        if name in state.listing.unclear:
            raise PolicyError(state.listing.unclear[name])
        if state.unknown == DEFAULT:
            return state.default
        if state.unknown is None:
            raise PolicyError(
                f"unknown tenant {name!r}: add tenants/{name}.yaml, "
                "or say in default.yaml what such tenants get (unknown_tenant: default)"
            )
        return self.get(state.unknown)

    def ready(self, tenant: str | None) -> InForce | None:
        """The policies of a tenant, where no file has to be read for them.

        Args:
            tenant: The tenant; None for none.

        Returns:
            As `get`; None where that would read a file, or raise.
        """
        state = self._state
        if tenant is None:
            return state.default
        try:
            with state.lock:
                found = state.ready[tenant]
                state.ready.move_to_end(tenant)
        except (KeyError, TypeError):
            is_default = state.unknown == DEFAULT and is_name(tenant) and state.listing.is_unknown(tenant)
            return state.default if is_default else None
        return found

    def tenants(self) -> tuple[str, ...]:
        """The tenants that have a policy of their own."""
        return tuple(self._state.listing.tenants)

    def shared(self) -> tuple[str, ...]:
        """The policies that are no tenant's."""
        return tuple(self._state.shared.sources)

    def named(self, name: str) -> InForce:
        """A policy by its name, whether a tenant's or a shared one.

        Args:
            name: The name; `default` is what steps without a tenant get, and `TENANT/NAME` is one that lies beside
                the tenant's policy in its own folder.

        Returns:
            The policy with floor and candidate.

        Raises:
            PolicyError: If there is none, or it is wrong.
        """
        state = self._state
        if name == state.listing.default:
            return state.default
        if name in state.listing.tenants:
            return self.get(name)
        tenant, _, own = name.partition("/")
        files = state.listing.tenants.get(tenant)
        with self._loading:
            if name in state.shared.sources:
                floor = state.default.floor if name != FLOOR else None
                return InForce(self._shared_policy(state.shared, name), floor)
            if files is not None and own in files.others:
                find = _finder(tenant, files, state.shared, read_file)
                chain = follow(own, find, lambda: _known(files, state.shared))
                return InForce(self._ready_made(own, chain, state.shared), state.default.floor)
        raise PolicyError(f"no policy {name!r}{nearest(name, [known for known, _ in files_of(state.listing)])}")

    def read(self, file: Path) -> InForce:
        """A policy in a file, wherever it lies; it may extend the shared ones.

        Args:
            file: The file; one of this folder is what it is there.

        Returns:
            The policy with floor and candidate.

        Raises:
            PolicyError: If it is wrong.
        """
        state = self._state
        for name, known in files_of(state.listing):
            if file.is_file() and known.is_file() and known.samefile(file):
                return self.named(name)
        with self._loading:
            source, shared = read_source(file.stem, file, file.parent), state.shared

            def find(name: str) -> Source | None:
                return source if name == file.stem else shared.sources.get(name)

            live = self._ready_made(file.stem, follow(file.stem, find, lambda: shared.sources), shared)
            return InForce(live, state.default.floor, self._candidate(live, find, shared))

    def check(self) -> list[str]:
        """Read every policy; the packaged one only where others extend it, for it may ask for heads that they don't.

        Returns:
            What is wrong, a line each mistake.
        """
        mistakes: list[str] = []
        for name in (name for name, _ in files_of(self._state.listing) if name != BUILTIN_NAME):
            try:
                self.named(name)
            except LecGuardError as error:
                mistakes += str(error).splitlines()
        return list(dict.fromkeys(mistakes))

    def reload(self) -> Changes:
        """Take what changed on disk: validate, then swap.

        What does not validate leaves the version in force that was, and so does a file that is gone: a tenant is not
        forgotten while this process runs, or its steps would fall to a weaker policy.

        Returns:
            What came into force, and what did not; a refusal is told once, until its reason changes.
        """
        with self._loading:
            news = _News()
            try:
                listing = list_folder(self.path)
            except PolicyError as error:
                news.refuse(str(self.path), error, self._state.default.live.policy.version)
            else:
                self._state = self._renewed(self._state, listing, news)
            told, self._told = self._told, {name: one.reason for name, one in news.refused.items()}
            fresh = [one for name, one in news.refused.items() if told.get(name) != one.reason]
            return Changes(tuple(news.renewed), tuple(fresh))

    def _first(self) -> _State:
        listing = list_folder(self.path)
        if listing.problems:
            raise PolicyError("\n".join(listing.problems))
        shared = _gathered(
            listing, {name: read_source(name, file, listing.root) for name, file in listing.shared.items()}
        )
        state = _State(listing, shared, self._default(listing, shared))
        names = set(listing.tenants) if len(listing.tenants) <= EAGER else {state.unknown} - {None, DEFAULT}
        # Each file's own mistake, so that nobody mends them one a run.
        mistakes: list[str] = []
        for tenant in listing.tenants:
            if tenant not in names:
                continue
            try:
                self._take(tenant, self._fresh(tenant, listing.tenants[tenant], shared), state)
            except LecGuardError as error:
                mistakes.append(str(error))
        if mistakes:
            raise PolicyError("\n".join(mistakes))
        return state

    def _default(self, listing: Listing, shared: _Shared) -> InForce:
        """What steps without a tenant are judged by."""
        default = shared.sources[listing.default]
        for name, source in shared.sources.items():
            if name != listing.default:
                _check_is_no_default(source, f"{listing.default}.yaml")
        unknown = default.file.unknown_tenant
        if unknown not in (None, DEFAULT, *listing.tenants):
            raise PolicyError(
                f"{default.where('unknown_tenant')}: no tenant {unknown!r}"
                f"{nearest(str(unknown), [DEFAULT, *listing.tenants])}"
            )
        floor = None
        if FLOOR in shared.sources and listing.default != FLOOR:
            if shared.sources[FLOOR].file.candidate is not None:
                raise PolicyError(f"{shared.sources[FLOOR].where('candidate')}: the floor has no candidate")
            floor = self._shared_policy(shared, FLOOR)
        live = self._shared_policy(shared, listing.default)
        return InForce(live, floor, self._candidate(live, shared.sources.get, shared))

    def _renewed(self, old: _State, listing: Listing, news: _News) -> _State:
        """What is on disk; where that is wrong, what was in force."""
        for problem in listing.problems:
            name = next((name for name, line in listing.unclear.items() if line == problem), problem.partition(": ")[0])
            news.refuse(name, problem, self._version(name, old))
        sources = self._renewed_sources(old, listing, news)
        listing = _merged(old.listing, listing)
        shared = _gathered(listing, sources)
        if shared == old.shared:
            shared, default = old.shared, old.default
        else:
            try:
                default = self._default(listing, shared)
            except LecGuardError as error:
                # Of policies that belong together none is taken: what is new in one may lean on what is new in another.
                news.refuse(listing.default, error, old.default.live.policy.version)
                shared, default = old.shared, old.default
            else:
                news.note(_versions(old.default), _versions(default))
        state = _State(listing, shared, default)
        for tenant in self._to_renew(old, state):
            self._renew(tenant, old, state, news)
        return state

    def _renewed_sources(self, old: _State, listing: Listing, news: _News) -> dict[str, Source]:
        """The shared policies, from disk; those that are wrong or gone, as they were."""
        sources = dict(old.shared.sources)
        for name, file in listing.shared.items():
            if name in listing.unclear:
                continue
            try:
                sources[name] = read_source(name, file, listing.root)
            except PolicyError as error:
                news.refuse(name, error, self._version(name, old))
        for name, source in old.shared.sources.items():
            if name not in listing.shared and name not in listing.unclear:
                gone = f"{source.document.file}: is gone; what it said stays in force until a restart"
                news.refuse(name, gone, self._version(name, old))
        return sources

    def _version(self, name: str, state: _State) -> str | None:
        """The version that is in force under a name, if there is one."""
        made = self._made.get(name)
        return (made.versions if made else _versions(state.default)).get(name)

    def _to_renew(self, old: _State, state: _State) -> list[str]:
        """Tenants of whom somebody would miss that their files changed; those that were used last come last."""
        listed = state.listing.tenants
        known = {*self._made, *self._told}
        if len(listed) <= EAGER:
            known |= listed.keys() - old.listing.tenants.keys()
        with old.lock:
            ready = list(old.ready)
        return [*(name for name in listed if name in known and name not in ready), *ready]

    def _renew(self, tenant: str, old: _State, state: _State, news: _News) -> None:
        """Take a tenant's files from disk, or leave it as it was."""
        with old.lock:
            before = old.ready.get(tenant)
        made = self._made.get(tenant)
        versions = made.versions if made else _versions(before) if before else {}
        files = state.listing.tenants[tenant]
        if made is None or not made.is_still_on_disk(files, state.shared):
            try:
                fresh = self._fresh(tenant, files, state.shared)
            except LecGuardError as error:
                news.refuse(tenant, error, versions.get(tenant))
            else:
                if before is not None or made is None:
                    self._take(tenant, fresh, state)
                else:  # Others are used more.
                    self._keep(tenant, fresh.made)
                news.note(versions, fresh.made.versions)
                return
        if before is not None:
            self._add(state, tenant, replace(before, floor=state.default.floor))

    def _get(self, tenant: str) -> InForce:
        """A tenant that is not ready."""
        with self._loading:
            state = self._state
            with state.lock:
                found = state.ready.get(tenant)
            if found is not None:
                return found
            made = self._made.get(tenant)
            if made is None:
                fresh = self._fresh(tenant, state.listing.tenants[tenant], state.shared)
            else:
                fresh = self._fresh(tenant, made.files, made.shared, made.contents)
            return self._take(tenant, fresh, state)

    def _take(self, tenant: str, fresh: _Fresh, state: _State) -> InForce:
        """Put a tenant's policies into force."""
        self._keep(tenant, fresh.made)
        found = InForce(fresh.live, state.default.floor, fresh.candidate)
        self._add(state, tenant, found)
        return found

    def _add(self, state: _State, tenant: str, policies: InForce) -> None:
        with state.lock:
            state.ready[tenant] = policies
            state.ready.move_to_end(tenant)
            while len(state.ready) > self._most:
                state.ready.popitem(last=False)

    def _keep(self, tenant: str, made: _Made) -> None:
        """Remember what is in force."""
        before = self._made.pop(tenant, None)
        self._made[tenant] = made
        self._bytes += _size(made) - (_size(before) if before else 0)
        while self._bytes > _KEPT and len(self._made) > 1:
            self._bytes -= _size(self._made.popitem(last=False)[1])

    def _fresh(
        self, tenant: str, files: Tenant, shared: _Shared, contents: Mapping[Path, bytes] | None = None
    ) -> _Fresh:
        """Make a tenant's policies, of what was in its files once or of what is there now."""
        used: dict[Path, bytes] = {}

        def read(file: Path) -> bytes:
            if file in shared.contents:
                return shared.contents[file]
            if file not in used:
                used[file] = read_file(file) if contents is None else contents[file]
            return used[file]

        find = _finder(tenant, files, shared, read)
        chain = follow(tenant, find, lambda: _known(files, shared))
        live = self._ready_made(tenant, chain, shared, read)
        candidate = self._candidate(live, find, shared, read)
        versions = _versions(InForce(live, None, candidate))
        return _Fresh(_Made(files, used, shared, versions), live, candidate)

    def _shared_policy(self, shared: _Shared, name: str) -> Compiled:
        chain = follow(name, shared.sources.get, lambda: shared.sources)
        return self._ready_made(name, chain, shared, partial(_read_shared, shared))

    def _candidate(
        self, live: Compiled, find: Find, shared: _Shared, read: Callable[[Path], bytes] = read_file
    ) -> Compiled | None:
        name, where = live.policy.candidate, live.policy.where("candidate")
        if name is None:
            return None
        if find(name) is None:
            raise PolicyError(f"{where}: no policy {name!r}{nearest(name, list(shared.sources))}")
        policy = resolve(name, follow(name, find, lambda: shared.sources), shared.hosts, read)
        # On the same scores, so by the same detector.
        if policy.detector is not None and policy.detector != live.policy.detector:
            raise PolicyError(f"{policy.where('detector')}: a candidate reads the scores of the live policy's detector")
        return compile_policy(policy, self._heads(live.policy.detector))

    def _ready_made(
        self, name: str, chain: Sequence[Source], shared: _Shared, read: Callable[[Path], bytes] = read_file
    ) -> Compiled:
        made = make_ready(name, chain, shared.hosts, self._heads, read)
        if self._fits is not None:
            self._fits(made.policy)
        return made


def make_ready(
    name: str,
    chain: Sequence[Source],
    hosts: Sequence[str],
    heads: FindHeads,
    read: Callable[[Path], bytes] = read_file,
) -> Compiled:
    """Make a policy ready for the detector that it asks for.

    Args:
        name: What it is called.
        chain: Its file, and those that it extends.
        hosts: The hosts that its URLs may name.
        heads: What detectors give.
        read: Gives the bytes of a file that it names.

    Returns:
        The policy, ready to decide.

    Raises:
        PolicyError: If parts of it don't fit each other or the detector, or the detector can't be had.
    """
    policy = resolve(name, chain, hosts, read)
    try:
        found = heads(policy.detector)
    except PolicyError:
        raise
    except LecGuardError as error:
        raise PolicyError(f"{policy.where('detector')}: {error}") from error
    return compile_policy(policy, found)


def _merged(old: Listing, new: Listing) -> Listing:
    """What lies in a folder now: no tenant is forgotten, and one whose policy is unclear has the one that it had."""
    tenants = {name: files for name, files in new.tenants.items() if name not in new.unclear}
    return replace(new, tenants={**old.tenants, **tenants})


def _gathered(listing: Listing, sources: Mapping[str, Source]) -> _Shared:
    """The shared policies with what they name; what can't be read of that is told where a policy is made of it."""
    contents: dict[Path, bytes] = {}
    for source in sources.values():
        if source.file.calibration is not None:
            with suppress(PolicyError):
                file = inside(source.folder, source.file.calibration, "")
                contents[file] = read_file(file)
    return _Shared(sources, sources[listing.default].file.allowed_hosts or (), contents)


def _finder(tenant: str, files: Tenant, shared: _Shared, read: Callable[[Path], bytes]) -> Find:
    """Finds what a tenant's policies may extend: its own, and the shared ones."""

    def find(name: str) -> Source | None:
        file = files.own(tenant, name)
        if file is None:
            return shared.sources.get(name)
        source = read_source(name, file, files.folder, read)
        _check_is_no_default(source, "default.yaml")
        return source

    return find


def _known(files: Tenant, shared: _Shared) -> list[str]:
    return [*shared.sources, *files.others]


def _check_is_no_default(source: Source, default: str) -> None:
    for key in ("unknown_tenant", "allowed_hosts"):
        if getattr(source.file, key) is not None:
            raise PolicyError(f"{source.where(key)}: only {default} says {key}")


def _read_shared(shared: _Shared, file: Path) -> bytes:
    return shared.contents[file] if file in shared.contents else read_file(file)


def _versions(policies: InForce) -> dict[str, str]:
    """Name -> version of what a reload can renew."""
    all_of_them = (policies.live, policies.floor, policies.candidate)
    return {one.policy.name: one.policy.version for one in all_of_them if one is not None}


def _size(made: _Made) -> int:
    return sum(map(len, made.contents.values()))
