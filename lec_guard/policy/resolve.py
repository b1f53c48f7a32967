"""A policy with everything that it inherits, and where each part of it was said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from lec_guard.errors import PolicyError
from lec_guard.policy.calibration import Calibration, read_calibration
from lec_guard.policy.document import Document, parse_document, read_file
from lec_guard.policy.guidance import Guidance, GuidanceByOrigin
from lec_guard.policy.messages import Messages, in_order
from lec_guard.policy.reach import check_url, inside
from lec_guard.policy.schema import (
    QUARANTINED,
    Allowed,
    Escalation,
    Fail,
    PolicyFile,
    Quarantine,
    Queue,
    Regenerate,
    Replace,
    Rewrite,
    Rule,
    Webhook,
    nearest,
    parse_policy,
)
from lec_guard.step import Mode, Stage

MESSAGE = "This request was stopped by a policy."
"""What a user is told where no policy says anything."""

_DATABASES = ("postgresql", "postgresql+psycopg")


@dataclass(frozen=True, slots=True)
class Source:
    """A policy file that was read.

    Attributes:
        name: What other files call it.
        file: What it says.
        document: Where it says so.
        folder: What its paths are relative to.
    """

    name: str
    file: PolicyFile
    document: Document
    folder: Path

    def where(self, *path: str | int) -> str:
        """File, line and column of a value."""
        return self.document.where(path)


def read_source(name: str, file: Path, folder: Path, read: Callable[[Path], bytes] = read_file) -> Source:
    """Read a policy file.

    Args:
        name: What other files call it.
        file: The file.
        folder: What its paths are relative to.
        read: Gives the bytes of a file.

    Returns:
        What it says, and where.

    Raises:
        PolicyError: If it can't be read, or is no policy; every mistake is told.
    """
    document = parse_document(file, read(file))
    return Source(name, parse_policy(document), document, folder)


@dataclass(frozen=True, slots=True)
class DetectorRef:
    """A detector that a policy asks for.

    Attributes:
        folder: The bundle.
        id: The `name@hash` that it must have.
        beside: Whether its heads are read beside those of the guard's own detector, and not instead of them.
    """

    folder: Path
    id: str
    beside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy with everything that it inherits. Nothing in it is resolved against a detector yet.

    Attributes:
        name: The tenant's or the file's name.
        version: A hash over everything that decides; equal for policies that decide alike.
        file: Where its own part was read from.
        description: For readers.
        rules: All rules, inherited ones first.
        message: What to tell a user where the rule has no message of its own, the policy's language first.
        locale: The policy's language.
        mode: Whether it acts.
        fail: What follows where a text was not judged; a stage that is missing blocks.
        allow: Texts for which rules don't count.
        rewrite: Ways to change a text.
        escalations: Whom to ask.
        hold_back: Tokens of a streamed answer that are held back, or `all`.
        guidance: How far a local model's answers are led away from its negative prompt; None where nothing says so.
        detector: Its own detector; None for the guard's.
        calibration: How high the tenant's own harmless texts score.
        candidate: The policy that is judged beside it.
        sources: Key (`message`, `rules.NAME`, `fail.STAGE`, `guidance.origins.user`, …) -> `file:line:column`.
    """

    name: str
    version: str
    file: Path
    rules: tuple[Rule, ...]
    message: Messages
    description: str = ""
    locale: str | None = None
    mode: Mode = "enforce"
    fail: Mapping[Stage, Fail] = field(default_factory=dict)
    allow: tuple[Allowed, ...] = ()
    rewrite: Mapping[str, Rewrite] = field(default_factory=dict)
    escalations: Mapping[str, Escalation] = field(default_factory=dict)
    hold_back: int | Literal["all"] = "all"
    guidance: GuidanceByOrigin | None = None
    detector: DetectorRef | None = None
    calibration: Calibration | None = None
    candidate: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """Where a part of it was said.

        Args:
            key: As in `sources`.

        Returns:
            `file:line:column`, or the file where nobody said it.
        """
        return self.sources.get(key, str(self.file))


def follow(name: str, find: Callable[[str], Source | None], known: Callable[[], Iterable[str]]) -> list[Source]:
    """Follow `extends` from a policy down to its root.

    Args:
        name: The policy.
        find: Gives the policy of a name, if there is one that may be extended.
        known: The names that there are, for suggestions.

    Returns:
        The policy, then what it extends, and so on.

    Raises:
        PolicyError: If one is missing, or they extend each other in a circle.
    """
    first = find(name)
    if first is None:
        raise PolicyError(f"no policy {name!r}{nearest(name, sorted(known()))}")
    chain = [first]
    while (parent := chain[-1].file.extends) is not None:
        where = chain[-1].where("extends")
        names = [link.name for link in chain]
        if parent in names:
            raise PolicyError(f"{where}: policies inherit in a circle: {' -> '.join([*names, parent])}")
        found = find(parent)
        if found is None:
            raise PolicyError(
                f"{where}: no policy {parent!r} in the tenant's own folder or among the shared ones"
                f"{nearest(parent, sorted(known()))}"
            )
        chain.append(found)
    return chain


def resolve(
    name: str, chain: Sequence[Source], hosts: Sequence[str] = (), read: Callable[[Path], bytes] = read_file
) -> Policy:
    """Lay each file over those that it extends.

    Args:
        name: What the policy is called: its tenant's name, or its file's.
        chain: As `follow` gives it.
        hosts: The hosts that its URLs may name.
        read: Gives the bytes of a file that it names.

    Returns:
        The policy.

    Raises:
        PolicyError: If parts of it don't fit each other.
    """
    own = chain[0]
    sources: dict[str, str] = {}
    values: dict[str, Any] = {}
    rules: dict[str, Rule] = {}
    allow: dict[str, Allowed] = {}
    fail: dict[Stage, Fail] = {}
    rewrite: dict[str, Rewrite] = {}
    escalations: dict[str, Escalation] = {}
    guidance: list[Guidance] = []
    folders: dict[str, Path] = {}
    for link in reversed(chain):
        said = link.file
        for key in ("mode", "detector", "calibration", "locale", "message", "hold_back"):
            if getattr(said, key) is not None:
                values[key], sources[key], folders[key] = getattr(said, key), link.where(key), link.folder
        if said.guidance is not None:
            guidance.append(said.guidance)
            sources |= {".".join(("guidance", *key)): link.where("guidance", *key) for key in said.guidance.said()}
        for at, rule in enumerate(said.rules):
            rules[rule.name], sources[f"rules.{rule.name}"] = rule, link.where("rules", at)
        for at, entry in enumerate(said.allow):
            allow[entry.name], sources[f"allow.{entry.name}"] = entry, link.where("allow", at)
        for stage, mode in said.fail.items():
            fail[stage], sources[f"fail.{stage}"] = Fail.of(mode), link.where("fail", stage)
        for section, way in said.rewrite.items():
            rewrite[section], sources[f"rewrite.{section}"] = way, link.where("rewrite", section)
        for section, whom in said.escalations.items():
            escalations[section], sources[f"escalations.{section}"] = whom, link.where("escalations", section)
    if own.file.candidate is not None:
        sources["candidate"] = own.where("candidate")
    if not rules:
        raise PolicyError(
            f"{own.document.file}: a policy without any rule lets everything pass; add one, or 'extends: default'"
        )
    file, locale = own.document.file, values.get("locale")
    said_detector, said_calibration = values.get("detector"), values.get("calibration")
    policy = Policy(
        name=name,
        version="",
        file=file,
        description=own.file.description,
        rules=tuple(rules.values()),
        message=Messages(
            in_order(Messages.of(values.get("message", MESSAGE)).texts, locale, sources.get("message", str(file)))
        ),
        locale=locale,
        mode=values.get("mode", "enforce"),
        fail=fail,
        allow=tuple(allow.values()),
        rewrite=rewrite,
        escalations=escalations,
        hold_back=values.get("hold_back", "all"),
        guidance=GuidanceByOrigin.of(guidance),
        detector=None
        if said_detector is None
        else DetectorRef(
            inside(folders["detector"], said_detector.bundle or said_detector.heads, sources["detector"]),
            said_detector.id,
            said_detector.heads is not None,
        ),
        calibration=None
        if said_calibration is None
        else read_calibration(inside(folders["calibration"], said_calibration, sources["calibration"]), read),
        candidate=own.file.candidate,
        sources=sources,
    )
    _check(policy, hosts)
    return replace(policy, version=_version(policy))


def _version(policy: Policy) -> str:
    detector, guidance = policy.detector, policy.guidance
    # In the order in which it stands, where the order counts: of rules, of patterns of tools, of languages.
    content = {
        "rules": [rule.model_dump(mode="json") for rule in policy.rules],
        "message": dict(policy.message.texts),
        "locale": policy.locale,
        "mode": policy.mode,
        "fail": _dumped(policy.fail),
        "allow": [entry.model_dump(mode="json") for entry in policy.allow],
        "rewrite": _dumped(policy.rewrite),
        "escalations": _dumped(policy.escalations),
        "hold_back": policy.hold_back,
        "guidance": None if guidance is None else [guidance.space, dict(guidance.coefficients)],
        "detector": None if detector is None else [detector.id, detector.beside],
        "calibration": policy.calibration.model_dump(mode="json") if policy.calibration else None,
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _dumped(sections: Mapping[Any, BaseModel]) -> dict[str, Any]:
    return {name: sections[name].model_dump(mode="json") for name in sorted(sections)}


def _check(policy: Policy, hosts: Sequence[str]) -> None:
    """Refuse parts that don't fit each other."""
    mistakes: list[str] = []

    def section(key: str, name: str | None, there: Mapping[str, object], where: str) -> None:
        if name is not None and name not in there:
            hint = nearest(name, list(there)) if there else f"; write a section {key!r} with it"
            mistakes.append(f"{where}: no {name!r} in {key}{hint}")

    def told(said: str | Mapping[str, str], where: str) -> None:
        with _collected(mistakes):
            in_order(Messages.of(said).texts, policy.locale, where)

    def reached(url: str, where: str, *schemes: str) -> None:
        with _collected(mistakes):
            check_url(url, hosts, where, schemes)

    for rule in policy.rules:
        where = policy.where(f"rules.{rule.name}")
        for one in rule.variants():
            section("rewrite", one.rewrite, policy.rewrite, where)
            section("escalations", one.escalation, policy.escalations, where)
            way = policy.rewrite.get(one.rewrite or "")
            if isinstance(way, Regenerate) and "tool_input" in one.stages:
                mistakes.append(f"{where}: regenerate can't write a tool's arguments anew; leave out tool_input")
            if isinstance(way, Quarantine) and not set(one.stages) <= set(QUARANTINED):
                mistakes.append(f"{where}: quarantine is for text of others: {', '.join(QUARANTINED)} only")
            waits = one.action == "escalate" or isinstance(way, Regenerate) or (way and way.then == "escalate")
            if waits and "output" in one.stages and policy.hold_back != "all":
                mistakes.append(f"{where}: at output this needs hold_back: all")
            if one.message is not None:
                told(one.message, where)
    names = dict.fromkeys(rule.name for rule in policy.rules)
    for entry in policy.allow:
        for name in entry.rules or ():
            section("rules", name, names, policy.where(f"allow.{entry.name}"))
    for name, way in policy.rewrite.items():
        where = policy.where(f"rewrite.{name}")
        section("escalations", way.escalation, policy.escalations, where)
        if isinstance(way, Replace):
            told(way.text, where)
    for name, whom in policy.escalations.items():
        where = policy.where(f"escalations.{name}")
        if isinstance(whom, Webhook):
            reached(whom.url, where, "https")
        if isinstance(whom, Queue) and whom.url is not None:
            reached(whom.url, where, *_DATABASES)
    if mistakes:
        raise PolicyError("\n".join(dict.fromkeys(mistakes)))


@contextmanager
def _collected(mistakes: list[str]) -> Iterator[None]:
    try:
        yield
    except PolicyError as error:
        mistakes.append(str(error))
