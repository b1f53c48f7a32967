"""What a policy file may say."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from lec_guard.errors import PolicyError
from lec_guard.policy.document import Document, KeyPath
from lec_guard.policy.guidance import GuidanceKey, GuidanceRuleKey
from lec_guard.policy.messages import Locale, Message
from lec_guard.policy.reach import Host
from lec_guard.policy.tainted import STAGES as TRACED
from lec_guard.policy.tainted import TAINT
from lec_guard.step import Action, Cause, Mode, Stage

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""What a policy, a tenant or a rule may be called."""

TOOL_STAGES: tuple[Stage, ...] = ("tool_input", "tool_output", "tool_definition")
"""Stages at which a step belongs to a tool."""

QUARANTINED: tuple[Stage, ...] = ("input", "tool_output", "retrieval")
"""Stages whose texts can be marked as untrusted: those that somebody else wrote and a model reads."""

Name = Annotated[str, Field(pattern=NAME)]
_Names = Annotated[tuple[Name, ...], Field(min_length=1)]
_Labels = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
_Stages = Annotated[tuple[Stage, ...], Field(min_length=1)]
_Threshold = Annotated[float, Field(strict=True, gt=0.0, le=1.0, allow_inf_nan=False)]
_Rate = Annotated[float, Field(strict=True, gt=0.0, lt=1.0, allow_inf_nan=False)]
_Milliseconds = Annotated[int, Field(strict=True, ge=0, le=3_600_000)]
_Upper = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]

_SHOWN = 20
"""Names that a suggestion lists, of however many tenants."""

_MISTAKES = 100
"""Mistakes of a file that are told."""

_WORD = 300
"""Characters of a file's words that are shown."""

_Model = TypeVar("_Model", bound=BaseModel)
_FilePath = Annotated[str, Field(min_length=1, max_length=500)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Glob = Annotated[str, Field(min_length=1, max_length=200)]


class When(_Part):
    """What else has to be so for a rule to match.

    Attributes:
        tainted: Part of the text came from a third party: a tool's result, or a document.
        sources: Patterns of the tools from whose results that has to be, `retrieval` for documents; `*` stands for any
            characters, `?` for one. Not given: any. A result of a tool whose name is not known fits them all.
    """

    tainted: Literal[True]
    sources: Annotated[tuple[_Glob, ...], Field(min_length=1)] | None = None


class ToolOverride(_Part):
    """How a rule differs for some tools; what is not given stays as the rule has it.

    Attributes:
        labels: The labels that count.
        threshold: The rule matches from this score on.
        max_fpr: Instead: the share of these tools' harmless steps that all rules of the stage together may stop.
        action: What follows; `allow` takes the rule out of force for these tools.
        rewrite: The section of `rewrite` that is applied.
        escalation: The section of `escalations` that is asked.
        message: What to tell the user.
        when: What else has to be so.
    """

    labels: _Labels | None = None
    threshold: _Threshold | None = None
    max_fpr: _Rate | None = None
    action: Action | None = None
    rewrite: Name | None = None
    escalation: Name | None = None
    message: Message | None = None
    when: When | None = None

    @model_validator(mode="after")
    def _one_bar(self) -> Self:
        if self.threshold is not None and self.max_fpr is not None:
            raise ValueError("give a threshold or a max_fpr, not both")
        return self


class Rule(_Part):
    """Which score at which stage leads to which action.

    Attributes:
        name: Unique in the policy; a rule of the same name replaces the inherited one.
        stages: The stages at which the rule reads.
        head: The head whose scores it reads; `taint` is the guard's own, and says what came from third parties.
        labels: The labels that count; none given means all that the head can raise.
        threshold: The rule matches from this score on.
        max_fpr: Instead of a threshold: the share of harmless steps that all rules of a stage together may stop.
        action: What follows. `allow` takes an inherited rule out of force.
        rewrite: The section of `rewrite` that `action: rewrite` applies.
        escalation: The section of `escalations` that `action: escalate` asks.
        message: What to tell the user where a step is stopped; else the policy's own message.
        when: What else has to be so for the rule to match.
        tools: Pattern of a tool's name -> how the rule differs for it; `*` stands for any characters, `?` for one. The
            first that fits counts.
    """

    name: Name
    stages: _Stages
    head: Annotated[str, Field(min_length=1)]
    labels: _Labels | None = None
    threshold: _Threshold | None = None
    max_fpr: _Rate | None = None
    action: Action
    rewrite: Name | None = None
    escalation: Name | None = None
    message: Message | None = None
    when: When | None = None
    tools: dict[_Glob, ToolOverride] = {}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.threshold is not None and self.max_fpr is not None:
            raise ValueError("give a threshold or a max_fpr, not both")
        if self.threshold is None and self.max_fpr is None and self.action != "allow":
            raise ValueError("give a threshold, or a max_fpr for it to be taken from")
        if self.tools and not set(self.stages) & set(TOOL_STAGES):
            raise ValueError(f"tools are read at {', '.join(TOOL_STAGES)} only, and the rule reads at none of them")
        if self.traces and set(self.stages) - set(TRACED):
            raise ValueError(f"where a text came from is known at {' and '.join(TRACED)} only")
        for one in self.variants():
            for action, section in (("rewrite", one.rewrite), ("escalate", one.escalation)):
                if (one.action == action) != (section is not None):
                    key = "rewrite" if action == "rewrite" else "escalation"
                    raise ValueError(f"action: {action} and {key}: NAME belong together")
            if one.action != "allow" and one.threshold is None and one.max_fpr is None:
                raise ValueError("a tool for which the rule is in force needs a threshold or a max_fpr")
        return self

    @property
    def traces(self) -> bool:
        """Whether it has to be known where texts came from."""
        whens = [self.when, *(override.when for override in self.tools.values())]
        return self.head == TAINT or any(when is not None for when in whens)

    def variants(self) -> list[Rule]:
        """The rule as it is for tools without an override, and for each of the others."""
        return [self, *(self.for_tool(glob) for glob in self.tools)]

    def for_tool(self, glob: str) -> Rule:
        """The rule as it is for some tools.

        Args:
            glob: A key of `tools`.

        Returns:
            The rule with what the override says.
        """
        override = self.tools[glob]
        fields = ((name, getattr(override, name)) for name in type(override).model_fields)
        given: dict[str, Any] = {name: value for name, value in fields if value is not None}
        if "threshold" in given or "max_fpr" in given:
            given = {"threshold": None, "max_fpr": None, **given}
        if "action" in given:
            given = {"rewrite": None, "escalation": None, **given}
        return self.model_copy(update={**given, "tools": {}})


class Allowed(_Part):
    """Texts for which rules don't count.

    Attributes:
        name: Unique in the policy; an entry of the same name replaces the inherited one.
        stages: The stages at which it holds.
        exact: The whole text is one of these; white space around it does not matter.
        regex: The whole text fits one of these, in RE2's syntax.
        rules: The rules that don't count then; none given means all, and that nothing else stops the text.
    """

    name: Name
    stages: _Stages
    exact: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    regex: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = ()
    rules: _Names | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.exact and not self.regex:
            raise ValueError("give texts (exact) or patterns (regex)")
        return self


FailAction = Literal["allow", "flag", "block"]
"""What can follow where a text was not judged."""


class Fail(_Part):
    """What follows at a stage where a text was not judged, and when that is so.

    Attributes:
        timeout: What follows where the scores came too late, or the detector had no room for more steps.
        error: What follows where the detector failed.
        budget: What follows where the text is too long.
        timeout_ms: Milliseconds within which a step must have its scores; a call of n steps has n times as long. Not
            given: no limit.
        max_chars: Characters of text and context together beyond which a step is not read. Not given: the detector's
            own budget.
    """

    timeout: FailAction = "block"
    error: FailAction = "block"
    budget: FailAction = "block"
    timeout_ms: _Milliseconds | None = None
    max_chars: Annotated[int, Field(strict=True, gt=0)] | None = None

    def action(self, cause: Cause) -> FailAction:
        """What follows.

        Args:
            cause: Why the text was not judged.

        Returns:
            The action.
        """
        return {"timeout": self.timeout, "error": self.error, "budget": self.budget}[cause]

    @classmethod
    def of(cls, said: FailAction | Fail) -> Fail:
        """From what a policy file says.

        Args:
            said: One action for every cause, or all of it.

        Returns:
            All of it.
        """
        return said if isinstance(said, Fail) else cls(timeout=said, error=said, budget=said)


class OwnDetector(_Part):
    """A detector of the tenant's own.

    Attributes:
        bundle: The folder of a bundle, relative to this file.
        heads: Instead: the folder of a bundle whose heads are read beside those of the guard's own detector, in the
            same pass; it must have been fitted on the same extractor.
        id: The bundle's `name@hash`, as `lec-guard check` shows it; another one there is an error.
    """

    bundle: _FilePath | None = None
    heads: _FilePath | None = None
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[0-9a-f]{16}$")]

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.bundle is None) == (self.heads is None):
            raise ValueError("give a bundle (a detector instead of the guard's) or heads (beside the guard's)")
        return self


class _Rewrite(_Part):
    then: Literal["escalate", "block"] = "block"
    escalation: Name | None = None

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if (self.then == "escalate") != (self.escalation is not None):
            raise ValueError("then: escalate and escalation: NAME belong together")
        return self


class RedactPii(_Rewrite):
    """Personal data is taken out of the text.

    Attributes:
        kind: `redact_pii`.
        entities: What to take out, for example `EMAIL_ADDRESS`; none given means all that is found.
        operator: What stands there instead: the kind of entity, stars, a keyed hash, or a token that is put back.
        then: What follows where the text still fails.
        escalation: Whom `then: escalate` asks.
    """

    kind: Literal["redact_pii"]
    entities: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], ...], Field(min_length=1)] | None = (
        None
    )
    operator: Literal["replace", "mask", "hash", "token"] = "replace"


class DropSpans(_Rewrite):
    """The sentences that scored are taken out.

    Attributes:
        kind: `drop_spans`.
        mark: What stands in the gap.
        then: What follows where the text still fails.
        escalation: Whom `then: escalate` asks.
    """

    kind: Literal["drop_spans"]
    mark: Annotated[str, Field(max_length=200)] = "[removed]"


class Quarantine(_Rewrite):
    """Untrusted text is marked as such (spotlighting, Hines et al. 2024, arXiv 2403.14720).

    Attributes:
        kind: `quarantine`.
        method: How: between marks, a mark between all words, or encoded.
        then: What follows where the text still fails.
        escalation: Whom `then: escalate` asks.
    """

    kind: Literal["quarantine"]
    method: Literal["delimit", "datamark", "encode"] = "datamark"


class Replace(_Rewrite):
    """The whole text is replaced.

    Attributes:
        kind: `replace`.
        text: What stands there instead.
        then: What follows where the text still fails.
        escalation: Whom `then: escalate` asks.
    """

    kind: Literal["replace"]
    text: Message


class Regenerate(_Rewrite):
    """A chat model, which the application registers, writes the text anew.

    Attributes:
        kind: `regenerate`.
        instruction: What it is told.
        model: The name under which the model is registered.
        guidance: How far its answer is led away from what its negative prompt makes likely, for models that can do
            that: a coefficient, or coefficient and space. Not given: the model is asked as it is.
        timeout_ms: Milliseconds until the next action follows.
        then: What follows where the text still fails.
        escalation: Whom `then: escalate` asks.
    """

    kind: Literal["regenerate"]
    instruction: Annotated[str, Field(min_length=1, max_length=4000)]
    model: Name = "default"
    guidance: GuidanceRuleKey | None = None
    timeout_ms: Annotated[int, Field(strict=True, gt=0, le=600_000)] = 30_000


class RegisteredRewrite(_Rewrite):
    """A rewriter of the application's own.

    Attributes:
        kind: `registered`.
        name: The name under which it is registered.
        then: What follows where the text still fails.
        escalation: Whom `then: escalate` asks.
    """

    kind: Literal["registered"]
    name: Name


Rewrite = Annotated[
    RedactPii | DropSpans | Quarantine | Replace | Regenerate | RegisteredRewrite, Field(discriminator="kind")
]
"""A way to change a text so that it may pass."""


class _Escalation(_Part):
    on_timeout: Literal["allow", "block"] = "block"
    on_error: Literal["allow", "block"] = "block"


class Interrupt(_Escalation):
    """The graph stops, and a person decides (LangGraph).

    Attributes:
        kind: `interrupt`.
        on_timeout: What follows where nobody answers.
        on_error: What follows where it can't be asked.
    """

    kind: Literal["interrupt"]


class Webhook(_Escalation):
    """Another service decides.

    Attributes:
        kind: `webhook`.
        url: Its address, https, on a host that the operator allows.
        secret: Name of the environment variable with the key that signs requests.
        timeout_ms: Milliseconds until `on_timeout`.
        on_timeout: What follows then.
        on_error: What follows where it fails.
    """

    kind: Literal["webhook"]
    url: Annotated[str, Field(min_length=1, max_length=2000)]
    secret: _Upper
    timeout_ms: Annotated[int, Field(strict=True, gt=0, le=600_000)] = 5000


class SecondOpinion(_Escalation):
    """A chat model, which the application registers, decides.

    Attributes:
        kind: `second_opinion`.
        question: What it is to decide.
        model: The name under which the model is registered.
        timeout_ms: Milliseconds until `on_timeout`.
        on_timeout: What follows then.
        on_error: What follows where it fails.
    """

    kind: Literal["second_opinion"]
    question: Annotated[str, Field(min_length=1, max_length=4000)]
    model: Name = "default"
    timeout_ms: Annotated[int, Field(strict=True, gt=0, le=600_000)] = 30_000


class Queue(_Escalation):
    """A reviewer decides, later.

    Attributes:
        kind: `queue`.
        url: The database: not given, a file of this machine; or `postgresql+psycopg://host/name` on a host that the
            operator allows.
        wait_ms: Milliseconds for which the caller waits before it gets a ticket.
        expires_s: Seconds until `on_timeout`; a decision then counts for as long.
        on_timeout: What follows then.
        on_error: What follows where the queue fails.
    """

    kind: Literal["queue"]
    url: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    wait_ms: _Milliseconds = 0
    expires_s: Annotated[int, Field(strict=True, gt=0)] = 86_400


class RegisteredEscalation(_Escalation):
    """Somebody whom the application asks in a way of its own.

    Attributes:
        kind: `registered`.
        name: The name under which it is registered.
        on_timeout: What follows where nobody answers in time.
        on_error: What follows where it fails.
    """

    kind: Literal["registered"]
    name: Name


Escalation = Annotated[Interrupt | Webhook | SecondOpinion | Queue | RegisteredEscalation, Field(discriminator="kind")]
"""Somebody who decides instead of the policy."""


class PolicyFile(_Part):
    """A policy as its author writes it.

    Attributes:
        description: For readers.
        extends: The policy whose settings this one inherits: `builtin` for the packaged default, or the name of
            another file of the tenant's folder or of the shared ones.
        mode: `enforce`, or `shadow`: judged and told, but nothing is stopped.
        candidate: A policy that is judged beside this one, on the same scores, and only told.
        detector: A detector of the tenant's own.
        calibration: What `lec-guard policy calibrate` wrote: budgets are taken from the tenant's own traffic.
        locale: The language of messages where the caller names none.
        message: What to tell a user where a step is stopped.
        hold_back: Tokens of a streamed answer that are held back, or `all`.
        guidance: How far a local model's answers are led away from what its negative prompt makes likely: a
            coefficient, or all that `Guidance` has.
        fail: Stage -> what follows where a text was not judged: one action, or all that `Fail` has.
        allow: Texts for which rules don't count.
        rewrite: Name -> a way to change a text so that it may pass.
        escalations: Name -> somebody who decides.
        unknown_tenant: In `default.yaml` only: what a tenant without a file gets, `default` or a tenant's name. Not
            given: an unknown tenant is an error.
        allowed_hosts: In `default.yaml` only: the hosts that URLs of policies may name.
        rules: The rules, read in order.
    """

    description: str = ""
    extends: Name | None = None
    mode: Mode | None = None
    candidate: Name | None = None
    detector: OwnDetector | None = None
    calibration: _FilePath | None = None
    locale: Locale | None = None
    message: Message | None = None
    hold_back: Annotated[int, Field(strict=True, gt=0)] | Literal["all"] | None = None
    guidance: GuidanceKey | None = None
    fail: dict[Stage, FailAction | Fail] = {}
    allow: tuple[Allowed, ...] = ()
    rewrite: dict[Name, Rewrite] = {}
    escalations: dict[Name, Escalation] = {}
    unknown_tenant: Name | None = None
    allowed_hosts: tuple[Host, ...] | None = None
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what, parts in (("rules", self.rules), ("allow entries", self.allow)):
            name, times = next(iter(Counter(part.name for part in parts).most_common(1)), ("", 0))
            if times > 1:
                raise ValueError(f"two {what} are called {name!r}")
        return self


def parse_policy(document: Document) -> PolicyFile:
    """Check a document against the schema.

    Args:
        document: The YAML that was read.

    Returns:
        The policy file.

    Raises:
        PolicyError: One line a mistake: file, line, column, key, what is wrong, and the word that was likely meant.
    """
    return parse(PolicyFile, document)


def parse(model: type[_Model], document: Document) -> _Model:
    """Check a document against a model.

    Args:
        model: The model.
        document: The YAML that was read.

    Returns:
        What the document says.

    Raises:
        PolicyError: As of `parse_policy`.
    """
    data = document.data if document.data is not None else {}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = [(_path(data, one["loc"]), one) for one in error.errors(include_url=False)[:_MISTAKES]]
        mistakes = dict.fromkeys(
            f"{document.where(path)}: {plain('.'.join(map(str, path))) or 'the file'}: "
            f"{plain(detail['msg'].removeprefix('Value error, '))}{_hint(model, data, path, detail)}"
            for at, (path, detail) in enumerate(details)
            if not _says_nothing(at, details)
        )
        more = error.error_count() - _MISTAKES
        raise PolicyError(
            "\n".join([*mistakes, *([f"{document.file}: and {more} more"] if more > 0 else [])])
        ) from None


def plain(word: str) -> str:
    """A word of a file, short and without anything that could move a terminal's cursor or begin another line."""
    shown = word if len(word) <= _WORD else f"{word[:_WORD]}…"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in shown)


def _says_nothing(at: int, found: Sequence[tuple[KeyPath, ErrorDetails]]) -> bool:
    """Whether a mistake only follows from another one."""
    path, detail = found[at]
    if any(where[: len(path)] == path and len(where) > len(path) for where, _ in found):
        # What is wrong within counts for nothing, or is what another member of a union would not be.
        return detail["type"] == "too_short" or _vagueness(detail) > 0
    # Of what the members of a union say of one value, the one that comes nearest is told.
    here = [(_vagueness(other), number) for number, (where, other) in enumerate(found) if where == path]
    return _vagueness(detail) > 0 and min(here) < (_vagueness(detail), at)


def _vagueness(detail: ErrorDetails) -> int:
    return 2 if detail["type"].endswith("_type") else 1 if detail["type"] == "literal_error" else 0


def _path(data: Any, loc: KeyPath) -> KeyPath:
    """Where pydantic's place is in the data: it names the members of a union too, which nobody wrote."""
    path: list[str | int] = []
    for at, part in enumerate(loc):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if at < len(loc) - 1 or part == "[key]" or not isinstance(data, Mapping) or not _is_key(part):
                continue
        path.append(part)
    return tuple(path)


def _is_key(part: str | int) -> bool:
    return isinstance(part, str) and part.isidentifier() and part == part.lower()


def _hint(model: type[BaseModel], data: Any, path: KeyPath, detail: ErrorDetails) -> str:
    """The word that was likely meant."""
    if detail["type"] == "extra_forbidden" and path:
        return nearest(str(path[-1]), _keys(model, data, path[:-1]))
    if detail["type"] == "literal_error":
        return _close(str(detail["input"]), str(detail["ctx"]["expected"]))
    if detail["type"] == "string_type" and not isinstance(detail["input"], list | dict | None):
        return "; put it in quotes"  # YAML takes No for false, and 1.0 for a number,
    if detail["type"] == "float_type" and re.fullmatch(r"[0-9]+e-?[0-9]+", str(detail["input"]), re.IGNORECASE):
        return "; write it with a point, as 0.001"  # and 1e-3 for a word.
    if detail["type"] == "union_tag_invalid":
        return _close(str(detail["ctx"]["tag"]), str(detail["ctx"]["expected_tags"]))
    return ""


def _close(word: str, expected: str) -> str:
    """The one of some quoted words that was likely meant."""
    found = difflib.get_close_matches(word[:_WORD], re.findall(r"'([^']*)'", expected), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _keys(model: type[BaseModel], data: Any, path: KeyPath) -> list[str]:
    """What may stand at a place."""
    models: list[type[BaseModel]] = [model]
    kinds: list[Any] = []
    for part in path:
        data = data[part]
        if models:
            kinds = [one.model_fields[part].annotation for one in models if part in one.model_fields]
        else:
            kinds = [get_args(kind)[-1 if get_origin(kind) is dict else 0] for kind in kinds if get_args(kind)]
        kinds = [member for kind in kinds for member in _members(kind)]
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        said = data.get("kind") if isinstance(data, Mapping) else None
        models = [one for one in models if said in get_args(one.model_fields["kind"].annotation)] if said else models
    return list(dict.fromkeys(name for one in models for name in one.model_fields))


def _members(kind: Any) -> list[Any]:
    """The kinds of which a union is made."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [member for part in get_args(kind) for member in _members(part)]
    return [kind]


def nearest(word: str, known: Sequence[str]) -> str:
    """A suggestion to put behind an error message.

    Args:
        word: What was written.
        known: What could have been meant.

    Returns:
        `; did you mean 'x'?`, or the list of what is known.
    """
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    shown = ", ".join(known[:_SHOWN])
    return f"; known: {shown}{f' and {len(known) - _SHOWN} more' if len(known) > _SHOWN else ''}"
