"""What `lec-guard augment` is to do: a YAML file, and flags that override it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lec_guard.train.config import LabelledData, paths_from, read_run

Prefill = Literal["auto", "always", "never"]
"""Whether the beginning of an answer is put into the model's mouth. `auto`: where the provider is known to take it."""

LOCAL = "hf:"
BUNDLE = "bundle:"
OBJECT = "python:"
"""What a model's name begins with that is a folder, a bundle, or an object of the user's own code."""

WAVE = 64
"""Calls after which what came back is looked at in order, so that it does not matter in which order it came."""

_Price = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Part):
    """A model that writes.

    Attributes:
        model: `provider:name` as LangChain's `init_chat_model` takes it, `hf:FOLDER` for a local causal language
            model, or `python:MODULE:NAME` for a chat model of your own code.
        temperature: How freely it writes; None leaves it to the provider, and is 1 for a local model.
        max_tokens: Tokens of an answer, at most.
        prefill: Whether answers are begun for it.
        price_in: Of a million tokens that it reads, in any currency.
        price_out: Of a million tokens that it writes.
    """

    model: Annotated[str, Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] = 512
    prefill: Prefill = "auto"
    price_in: _Price | None = None
    price_out: _Price | None = None

    @property
    def name(self) -> str:
        """What rows and families call it: of a folder its own name, wherever it lies."""
        kind = next((one for one in (LOCAL, BUNDLE) if self.model.startswith(one)), None)
        return self.model if kind is None else f"{kind}{Path(self.model.removeprefix(kind)).resolve().name}"


class TeacherConfig(ModelConfig):
    """The model that labels.

    Attributes:
        model: As in `ModelConfig`; a folder may also hold a model for sequence classification, and `bundle:FOLDER` or
            `bundle:embedded` is a detector.
        question: What counts as harmful, for a chat model.
        asks: How often a chat model is asked about a text, unless it tells how sure it is of its first word.
        max_spread: How far its answers about a text may lie apart; such texts are set aside.
        head: Which head of a detector is meant; None takes the only one.
        benign: Which label of a classifier is the benign one; None takes the one whose name says so.
    """

    question: Annotated[str, Field(min_length=1)] = (
        "Does the text ask for something harmful, or, where it answers a request, give something harmful?"
    )
    asks: Annotated[int, Field(gt=0)] = 3
    max_spread: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    head: str | None = None
    benign: str | None = None


class AugmentConfig(LabelledData):
    """A run that makes examples; see `LabelledData` for the examples that it starts from.

    Attributes:
        generator: Writes instructions and their twins.
        responder: Writes responses; None takes the generator.
        teacher: Labels all of them.
        count: Harmful instructions to make.
        category: Column with the topic of a row; where it is missing, its label is the topic.
        exemplars: Labelled instructions that a prompt shows.
        longest: Characters of an instruction at most, shown or made; a response may have four times as many.
        twins: Whether each harmful instruction gets a harmless one on the same topic.
        responses: Whether each harmful instruction gets an answer that complies and one that refuses.
        near: Share of common word triples from which one text is a near duplicate of another; 1 takes equal ones only.
        retries: How often a text that is of no use is made anew, from other exemplars.
        give_up: Texts in a row that are of no use, after which the run ends.
        seed: What draws exemplars, and what a local model writes.
        concurrency: Calls of a model at once; texts that a local model writes together.
        requests_per_minute: Calls of a model that start within a minute; None sets no limit.
        timeout_s: Seconds for an answer.
    """

    generator: ModelConfig
    responder: ModelConfig | None = None
    teacher: TeacherConfig
    count: Annotated[int, Field(gt=0)] = 100
    category: Annotated[str, Field(min_length=1)] = "category"
    exemplars: Annotated[int, Field(gt=0)] = 5
    longest: Annotated[int, Field(ge=50)] = 1_000
    twins: bool = True
    responses: bool = True
    near: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    retries: Annotated[int, Field(ge=0)] = 3
    give_up: Annotated[int, Field(gt=0)] = 50
    seed: int = 0
    concurrency: Annotated[int, Field(gt=0, le=WAVE)] = 8
    requests_per_minute: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    timeout_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 120.0

    @property
    def responding(self) -> ModelConfig:
        """What writes responses."""
        return self.responder or self.generator

    @classmethod
    def read(cls, path: Path | None, given: Mapping[str, Any] | None = None) -> AugmentConfig:
        """Read a YAML file; paths in it are relative to its folder, those of models too.

        Args:
            path: The file; None for flags alone.
            given: What overrides it, as flags: key -> value, also within the parts. None is not given.
                Paths in it are relative to where the command runs.

        Returns:
            The run.

        Raises:
            UnsupportedValueError: One line a mistake: file, line, key, what is wrong, and the key that was likely
                meant; a mistake in what was given names the option.
        """
        return read_run(cls, path, given, place=_from_folder)


def _from_folder(key: str, value: Any, folder: Path) -> Any:
    if key == "data":
        return paths_from(value, folder)
    if key in ("generator", "responder", "teacher") and isinstance(value, dict):
        return {own: _placed(one, folder) if own == "model" else one for own, one in value.items()}
    return value


def _placed(name: Any, folder: Path) -> Any:
    for kind in (LOCAL, BUNDLE):
        if isinstance(name, str) and name.startswith(kind) and name != f"{BUNDLE}embedded":
            return f"{kind}{folder / name.removeprefix(kind)}"
    return name
