"""`/v1/moderations`, as OpenAI's client asks and reads it."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from lec_guard.detect.wire import Text
from lec_guard.serve.api.check import PROBLEMS
from lec_guard.serve.api.refusing import Refused
from lec_guard.serve.api.services import Api, Asking, admitted, size_of, tenant_of
from lec_guard.step import Step, Verdict

STANDARD = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""All that OpenAI's answers have. Those that no head tells apart are never raised."""

_OF_SAFETY: dict[str, tuple[str, ...]] = {
    "hate_harassment": ("hate", "harassment"),
    "violent_crime_weapons": ("violence", "illicit/violent"),
    "nonviolent_crime_fraud": ("illicit",),
    "cyber": ("illicit",),
    "sexual": ("sexual",),
    "child_exploitation": ("sexual/minors",),
    "self_harm": ("self-harm",),
}
_OURS = "lec_guard/"
_RAISED = 0.5
"""The share of a verdict's unsafe score from which a category is raised, beside the likeliest."""

routes = APIRouter(responses=PROBLEMS)


class TextPart(BaseModel):
    """A text, in the form that OpenAI's client has for several kinds of input."""

    type: Literal["text"]
    text: Text


class ImagePart(BaseModel):
    """An image: it is refused, for nothing here can read one."""

    type: Literal["image_url"]
    image_url: object


class ModerationBody(BaseModel):
    """What OpenAI's client sends; `model` is not read, and other fields are taken and not read."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "I want to hurt them."}]})

    input: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(min_length=1)]
    )
    model: str | None = None


class ModerationResult(BaseModel):
    """What is said of a text.

    Attributes:
        flagged: Whether the tenant's policy says anything but allow.
        categories: All standard categories, and ours: `lec_guard/HEAD` for heads whose rules matched, and categories of
            `safety` that OpenAI has not.
        category_scores: Exact for keys that may see them; else 1 where a category is raised and 0 elsewhere.
        category_applied_input_types: `text` for each.
    """

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]


class ModerationOut(BaseModel):
    """The results, in the order of the texts."""

    id: str
    model: str
    results: list[ModerationResult]


@routes.post("/v1/moderations", tags=["moderations"], summary="OpenAI's moderations, by a tenant's policy")
async def moderations(request: Request, body: ModerationBody, ours: Api, key: Asking) -> ModerationOut:
    """Judge texts as user messages, and answer as OpenAI does.

    A tenant that the key does not name is named in the header X-Lec-Guard-Tenant.
    """
    steps = [Step(stage="input", text=text) for text in _texts(body)]
    tenant = tenant_of(request, key, None)
    await admitted(ours, key, tenant, steps)
    with ours.room.taken(len(steps), size_of(steps)):
        verdicts = await ours.guard.acheck_many(steps, tenant)
    return ModerationOut(
        id=f"modr-{uuid.uuid4().hex}",
        model=ours.detector.detector_id or "lec-guard",
        results=[result(one, exact=key.scores) for one in verdicts],
    )


def result(verdict: Verdict, *, exact: bool) -> ModerationResult:
    """A verdict in OpenAI's words.

    Args:
        verdict: The verdict.
        exact: Whether scores are told.

    Returns:
        The result.
    """
    flagged = verdict.action != "allow"
    scores = dict.fromkeys(STANDARD, 0.0)
    safety = {name: score for name, score in verdict.scores.get("safety", {}).items() if name != "unsafe"}
    for name, score in safety.items():
        for category in _OF_SAFETY.get(name, (f"{_OURS}{name}",)):
            scores[category] = max(scores.get(category, 0.0), score)
    likeliest = max(safety.values(), default=0.0)
    others = {
        f"{_OURS}{head}": max(own.values(), default=0.0) for head, own in verdict.scores.items() if head != "safety"
    }
    matched = {f"{_OURS}{span.head}" for span in verdict.spans}
    unsafe = flagged and any(span.head == "safety" for span in verdict.spans)
    raised = {
        name: unsafe and score > 0 and (score == likeliest or score >= _RAISED) for name, score in scores.items()
    } | {name: flagged and name in matched for name in others}
    shown = {**scores, **others} if exact else {name: float(own) for name, own in raised.items()}
    return ModerationResult(
        flagged=flagged,
        categories=raised,
        category_scores=shown,
        category_applied_input_types={name: ["text"] for name in raised},
    )


def _texts(body: ModerationBody) -> list[str]:
    if isinstance(body.input, str):
        return [body.input]
    texts = []
    for one in body.input:
        if isinstance(one, ImagePart):
            raise Refused(400, "invalid_request", "images can't be read here; send texts")
        texts.append(one if isinstance(one, str) else one.text)
    # Parts of one input are one thing that somebody says; only a list of strings is several.
    return texts if isinstance(body.input[0], str) else ["\n".join(texts)]
