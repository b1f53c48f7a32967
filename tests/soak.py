"""Rewrites policies, well and badly, while threads check: is any verdict one of a policy that was never valid?

    python -m tests.soak [--seconds 60] [--threads 16] [--embedded 2]

Every file has a few good contents, whose versions and decisions are known beforehand, and any number of bad ones:
half-written, in another encoding, with keys twice, with heads that nobody has, inheriting in a circle, gone. A guard
with `watch=True` serves them. Each judgement of each verdict has to be, word for word, what one of the good contents
of its tenant says of the text. In the end all files are good again and have to be in force, and nothing may be left
over: no thread, no memory, no object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lec_guard import Detector, Event, Guard, LayerDetector, PolicyReloaded, ReloadRefused, Step, Verdict
from lec_guard.guard import heads_of
from lec_guard.policy.decide import decide
from lec_guard.policy.store import PolicyStore
from lec_guard.step import Scores
from lec_guard.testing import KeywordDetector

TENANTS = 12
ROUNDS = 2
"""What the first leaves behind is taken for granted, what the second adds is a leak."""

MOST_BYTES = 24 << 20
MOST_OBJECTS = 3000
"""That a round may leave behind: caches and the allocator's own are not quite still."""

PATIENCE = 30.0

TEXTS = ("What is the capital of France?", "An attack.", "Some poison.", "An attack with poison.")
STEPS = [Step(stage="input", text=text) for text in TEXTS]


def _rule(name: str, head: str, threshold: float, action: str) -> dict[str, object]:
    return {"name": name, "stages": ["input"], "head": head, "threshold": threshold, "action": action}


# --- what is written


@dataclass(frozen=True)
class Files:
    """The good contents of each file, by the path that it has in the folder."""

    contents: Mapping[str, Sequence[str]]

    @classmethod
    def made(cls) -> Files:
        """As JSON, which YAML holds and of which no part but the whole is valid: half a file is never a policy."""
        contents: dict[str, list[str]] = {
            "default.yaml": [
                _dumped(message=f"default {at}", rules=[_rule("injection", "injection", 0.5 + at / 100, action)])
                for at, action in enumerate(("block", "flag", "block"))
            ],
            "strict.yaml": [
                _dumped(extends="default", rules=[_rule("unsafe", "safety", 0.5 + at / 100, "block")])
                for at in range(3)
            ],
            "floor.yaml": [
                _dumped(message=f"floor {at}", rules=[_rule("poison", "safety", 0.6 + at / 100, action)])
                for at, action in enumerate(("flag", "block", "block"))
            ],
        }
        for tenant in range(TENANTS):
            parent = "strict" if tenant % 2 else "default"
            path = f"tenants/t{tenant}/policy.yaml" if tenant % 3 == 0 else f"tenants/t{tenant}.yaml"
            contents[path] = [
                _dumped(extends=parent, message=f"tenant {tenant}"),
                _dumped(extends=parent, message=f"tenant {tenant}", mode="shadow"),
                _dumped(extends=parent, rules=[_rule(f"own-{tenant}", "injection", 0.4, "block")], candidate="strict"),
            ]
        return cls(contents)

    def write(self, folder: Path, at: int) -> None:
        """One good content of each file."""
        for path, contents in self.contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(contents[at], encoding="utf-8")


def _dumped(**content: object) -> str:
    return json.dumps(content)


def _tenant(path: str) -> str | None:
    parts = Path(path).parts
    return Path(parts[1]).stem if parts[0] == "tenants" else None


Said = tuple[str, str | None]
"""Action and rule."""

Known = dict[tuple[str | None, str], dict[str, dict[str, Said]]]
"""(tenant, role) -> version -> text -> what that version says of it."""


def quick() -> Detector:
    """A detector that takes no time."""
    return KeywordDetector({"injection": {"injection": ["attack"]}, "safety": {"unsafe": ["poison"]}})


def known(files: Files, detector: Detector, scores: Mapping[str, Scores]) -> Known:
    """What each valid combination of contents says: of a file with those that it inherits from."""
    found: Known = {}
    shared = [path for path in files.contents if _tenant(path) is None]
    for chosen in itertools.product(range(3), repeat=len(shared)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for path, at in zip(shared, chosen, strict=True):
                (folder / path).write_text(files.contents[path][at], encoding="utf-8")
            variants: list[tuple[str, str]] = []
            (folder / "tenants").mkdir()
            for path, contents in files.contents.items():
                for at, content in enumerate(contents if (tenant := _tenant(path)) else ()):
                    variants.append((f"{tenant}-{at}", str(tenant)))
                    (folder / "tenants" / f"{tenant}-{at}.yaml").write_text(content, encoding="utf-8")
            store = PolicyStore(folder, lambda _: heads_of(detector))
            for variant, tenant in [(None, None), *variants]:
                policies = store.get(variant)
                for role in ("live", "floor", "candidate"):
                    if (policy := getattr(policies, role)) is not None:
                        decisions = {step.text: decide(policy, step, scores[step.text]) for step in STEPS}
                        said = {text: (one.action, one.rule) for text, one in decisions.items()}
                        found.setdefault((tenant, role), {})[policy.policy.version] = said
    return found


# --- who writes


@dataclass
class Writer:
    """Rewrites the files of a folder, at random."""

    folder: Path
    files: Files
    numbers: random.Random
    written: Counter[str] = field(default_factory=Counter)

    def write(self) -> None:
        """One change."""
        path = self.numbers.choice([*self.files.contents, *[p for p in self.files.contents if _tenant(p) is None] * 3])
        file, good = self.folder / path, self.numbers.choice(self.files.contents[path])
        ways: dict[str, Callable[[], object]] = {
            "good": lambda: file.write_text(good, encoding="utf-8"),
            "good, in one piece": lambda: self._replace(file, good),
            "half-written": lambda: self._half(file, good),
            "bad": lambda: file.write_bytes(self.numbers.choice(BAD)),
            "gone and back": lambda: self._gone(file, good),
            "all tenants gone and back": self._all_gone,
        }
        [way] = self.numbers.choices(list(ways), weights=[6, 6, 4, 6, 2, 1])
        self.written[way] += 1
        ways[way]()

    def _replace(self, file: Path, content: str) -> None:
        new = file.with_name(f".{file.name}.new")
        new.write_text(content, encoding="utf-8")
        new.replace(file)

    def _half(self, file: Path, content: str) -> None:
        with file.open("w", encoding="utf-8") as opened:
            half = self.numbers.randrange(1, len(content))
            opened.write(content[:half])
            opened.flush()
            if self.numbers.random() < 0.5:
                self._rest()
                opened.write(content[half:])

    def _gone(self, file: Path, content: str) -> None:
        file.unlink(missing_ok=True)
        self._rest()
        file.write_text(content, encoding="utf-8")

    def _all_gone(self) -> None:
        tenants = self.folder / "tenants"
        hidden = tenants.rename(self.folder / "hidden")
        self._rest()
        hidden.rename(tenants)

    def _rest(self) -> None:
        time.sleep(self.numbers.random() * 0.1)


BAD = (
    b"",
    b"rules: []",
    b"\xff\xfe\x00r\x00u",
    b"message: x\nmessage: y\nrules: []",
    b"rules: &a [*a, *a]",
    b"rules: [{name: r, stages: [input], head: nobodys, threshold: 0.5, action: block}]",
    b"rules: [{name: r, stages: [input], head: injection, threshold: 7, action: block}]",
    b"extends: nobody",
    b"extends: strict\nrules: {}",
    b"unknown_tenant: default\nextends: builtin\nrules: [{name: injection, action: allow}]",
    b"{" * 1000,
    b"mode: shadow",
    b"candidate: nobody\nextends: strict",
    b"#" * (1 << 20) + b"#",
)
"""No file may say any of it."""


# --- who checks


class Sink:
    """Counts what it is told, and keeps nothing."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Count an event."""
        with self._lock:
            self.counts[type(event).__name__] += 1
            if isinstance(event, ReloadRefused) and "not watched any more" in event.reason:
                self.lost.append(event.reason)


@dataclass
class Soak:
    """A guard, what it may say, and what it said wrongly.

    Attributes:
        name: Which detector it has.
        guard: The guard.
        known: What each valid version says.
        sink: What the guard tells.
        checks: How many verdicts there were.
        seen: (tenant, role) -> versions that they were of.
        violations: What was wrong.
    """

    name: str
    guard: Guard
    known: Known
    sink: Sink
    checks: int = 0
    seen: dict[tuple[str | None, str], set[str]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def work(self, number: int, stop: threading.Event) -> None:
        """What one thread does: checks, in one of the ways that there are."""
        numbers = random.Random(number)
        tenants = [None, *(f"t{at}" for at in range(TENANTS))]
        while not stop.is_set() and len(self.violations) < 20:
            count = numbers.choice((1, 1, 1, 5))
            steps = numbers.choices(STEPS, k=count)
            whose = numbers.choices(tenants, k=count)
            try:
                match numbers.randrange(4):
                    case 0:
                        verdicts = [outcome.verdict for outcome in self.guard.apply_many(steps, whose)]
                    case 1:
                        verdicts = asyncio.run(self.guard.acheck_many(steps, whose))
                    case _:
                        verdicts = self.guard.check_many(steps, whose)
            except Exception as error:  # noqa: BLE001 - none may happen, of whatever kind
                self.violations.append(f"{self.name}: {error!r}")
                continue
            for step, verdict in zip(steps, verdicts, strict=True):
                self._look_at(step, verdict)
            self.checks += count

    def reload(self) -> None:
        """Reload as somebody does who does not wait for the watch."""
        try:
            self.guard.reload()
        except Exception as error:  # noqa: BLE001 - none may happen, of whatever kind
            self.violations.append(f"{self.name}: reload: {error!r}")

    def _look_at(self, step: Step, verdict: Verdict) -> None:
        for one in verdict.judgements:
            key = (None if one.role == "floor" else verdict.tenant, one.role)
            said = self.known[key].get(one.version)
            if said is None:
                self.violations.append(f"{self.name}: {key}: no valid policy has the version {one.version}")
            elif said[step.text] != (one.action, one.rule):
                self.violations.append(f"{self.name}: {key}: {one} says something else than its version does")
            self.seen.setdefault(key, set()).add(one.version)
        if "floor" not in {one.role for one in verdict.judgements}:
            self.violations.append(f"{self.name}: {verdict.tenant}: judged without the floor")
        if verdict.cause is not None:
            self.violations.append(f"{self.name}: {verdict.tenant}: not judged: {verdict.cause}")

    def expect(self, folder: Path) -> None:
        """Wait until what is on disk is in force; says so if it is not."""
        fresh = PolicyStore(folder, lambda _: heads_of(self.guard._detector))
        versions = {tenant: fresh.get(tenant).live.policy.version for tenant in (None, *fresh.tenants())}
        ends = time.monotonic() + PATIENCE
        while True:
            wrong = [
                str(tenant) for tenant, version in versions.items() if self.guard.policy(tenant).version != version
            ]
            if not wrong:
                return
            if time.monotonic() > ends:
                break
            time.sleep(0.02)
        self.violations.append(f"{self.name}: what is on disk did not come into force for {', '.join(wrong)}")


class Complaints(logging.Handler):
    """Keeps what the package logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.told.append(f"logged: {record.getMessage()}: {record.exc_info[1] if record.exc_info else ''}")


@dataclass(frozen=True)
class Size:
    """What the process takes.

    Attributes:
        rss: Bytes of memory.
        objects: Objects that the garbage collector knows.
        threads: Threads.
    """

    rss: int
    objects: int
    threads: int

    @classmethod
    def now(cls) -> Size:
        """Measure, when all garbage is gone."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(gc.get_objects()), threading.active_count())


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        checks: How many verdicts there were.
        written: Way -> how many files were written so.
        told: What the guards told, each kind of event how often.
        versions: How many versions verdicts were of.
        before: After the first round.
        after: After the last one.
        violations: What was wrong; empty if nothing was.
    """

    checks: int
    written: Mapping[str, int]
    told: Mapping[str, int]
    versions: int
    before: Size
    after: Size
    violations: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.checks:,} verdicts of {self.versions} versions",
            f"{sum(self.written.values()):,} changes: " + ", ".join(f"{n} {way}" for way, n in self.written.items()),
            "told: " + ", ".join(f"{n:,} {kind}" for kind, n in sorted(self.told.items())),
            f"memory {self.before.rss >> 20} -> {self.after.rss >> 20} MB, objects {self.before.objects:,} -> "
            f"{self.after.objects:,}, threads {self.before.threads} -> {self.after.threads}",
            *(f"WRONG: {one}" for one in self.violations),
            "nothing is wrong" if not self.violations else f"{len(self.violations)} wrong",
        ]
        return "\n".join(lines)


def soak(seconds: float, *, threads: int, embedded: int, seed: int) -> Report:
    """Rewrite policies while threads check.

    Args:
        seconds: For how long, all rounds together.
        threads: How many threads check with a detector that takes no time.
        embedded: How many check with the embedded detector besides.
        seed: What the writer's choices start from.

    Returns:
        What came of it.
    """
    files, complaints, numbers = Files.made(), Complaints(), random.Random(seed)
    before = threading.active_count()
    with tempfile.TemporaryDirectory() as name, _listening(complaints):
        folder = Path(name) / "policies"
        files.write(folder, 0)
        writer = Writer(folder, files, numbers)
        detectors: dict[str, Detector] = {"keywords": quick()}
        if embedded:
            detectors["embedded"] = LayerDetector.load()
        soaks = [_made(kind, detector, files, folder) for kind, detector in detectors.items()]
        workers = [soaks[0]] * threads + soaks[1:] * embedded
        sizes: list[Size] = []
        for at in range(ROUNDS):
            _round(workers, writer, seconds / ROUNDS, at)
            shutil.rmtree(folder / "hidden", ignore_errors=True)
            files.write(folder, 1)
            for one in soaks:
                one.expect(folder)
                forget = getattr(one.guard._detector, "seen", None)
                if forget is not None:
                    forget.clear()
            sizes.append(Size.now())
        for one in soaks:
            one.guard.close()
        violations = [line for one in soaks for line in (*one.violations, *one.sink.lost)] + complaints.told
        violations += _leaks(sizes[0], sizes[-1], threading.active_count() - before)
        if not all(one.sink.counts[kind.__name__] for one in soaks for kind in (PolicyReloaded, ReloadRefused)):
            violations.append("nothing was reloaded, or nothing refused: this run shows nothing")
        return Report(
            checks=sum(one.checks for one in soaks),
            written=writer.written,
            told=sum((one.sink.counts for one in soaks), Counter()),
            versions=len({version for one in soaks for versions in one.seen.values() for version in versions}),
            before=sizes[0],
            after=sizes[-1],
            violations=tuple(dict.fromkeys(violations)),
        )


def _made(name: str, detector: Detector, files: Files, folder: Path) -> Soak:
    scores = dict(zip(TEXTS, detector.score(STEPS), strict=True))
    sink = Sink()
    allowed = known(files, detector, scores)
    # The floor is the same for all.
    allowed[None, "floor"] |= {
        v: said for (_, role), own in allowed.items() if role == "floor" for v, said in own.items()
    }
    return Soak(name, Guard.from_policies(folder, detector=detector, sinks=[sink], watch=True), allowed, sink)


def _round(workers: Sequence[Soak], writer: Writer, seconds: float, number: int) -> None:
    stop = threading.Event()
    running = [
        threading.Thread(target=one.work, args=(1000 * number + at, stop), name="soak")
        for at, one in enumerate(workers)
    ]
    for thread in running:
        thread.start()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        writer.write()
        if writer.numbers.random() < 0.02:
            workers[0].reload()
        time.sleep(writer.numbers.random() * 0.01)
    stop.set()
    for thread in running:
        thread.join(PATIENCE)


def _leaks(before: Size, after: Size, threads: int) -> Iterator[str]:
    if after.rss - before.rss > MOST_BYTES:
        yield f"memory grew by {(after.rss - before.rss) >> 20} MB"
    if after.objects - before.objects > MOST_OBJECTS:
        yield f"{after.objects - before.objects:,} more objects than after the first round"
    if after.threads != before.threads or threads:
        yield f"threads: {before.threads} after the first round, {after.threads} after the last, {threads} in the end"


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("lec_guard")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from a command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=16, help="that check with a detector that takes no time")
    parser.add_argument("--embedded", type=int, default=2, help="that check with the embedded detector besides")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    report = soak(args.seconds, threads=args.threads, embedded=args.embedded, seed=args.seed)
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
