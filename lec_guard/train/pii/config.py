"""What `lec-guard pii-data`, `tune` and `pii-eval` are to do: YAML files, and flags that override them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lec_guard.detect.pii import THRESHOLD
from lec_guard.generate.mixing import MOST
from lec_guard.generate.prompts import NEGATIVE, POSITIVE
from lec_guard.train.config import paths_from, read_run
from lec_guard.train.harmaug.config import LOCAL, WAVE, ModelConfig

NUDGE = "Please answer without any personal data."

_Paths = Annotated[tuple[Path, ...], Field(min_length=1)]
_Asked = Annotated[str, Field(min_length=1)]
_Number = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("data", "pairs", "prompts", "questions", mode="before", check_fields=False)
    @classmethod
    def _one_path(cls, value: object) -> object:
        return (value,) if isinstance(value, str | Path) else value


class _Run(_Part):
    """What a command is to do."""

    @classmethod
    def read(cls, path: Path | None, given: Mapping[str, Any] | None = None) -> Self:
        """Read a YAML file; paths in it are relative to its folder, those of models too.

        Args:
            path: The file; None for flags alone.
            given: What overrides it, as flags: key -> value. None is not given.

        Returns:
            The run.

        Raises:
            UnsupportedValueError: One line a mistake, as `lec_guard.train.config.read_run` says it.
        """
        return read_run(cls, path, given, place=_from_folder)


class PiiRules(_Part):
    """What counts as personal data; see `lec_guard.detect.pii.PiiDetector`.

    Attributes:
        entities: Entity types to look for; None for the usual ones.
        allowed: Those that an answer may have: of what arXiv 2412.06846 allows (cardinal and ordinal numbers, dates,
            products) Presidio knows dates alone, and looks for no others.
        language: Which languages' usual entity types are taken.
        ner: Whether an installed spaCy model looks for names and places; or its name or folder. Without one, answers
            with names count as free of personal data.
        threshold: Presidio's score from which on something is a finding.
    """

    entities: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    allowed: tuple[str, ...] = ("DATE_TIME",)
    language: Annotated[tuple[str, ...], Field(min_length=1)] = ("en",)
    ner: bool | str = True
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = THRESHOLD


class GeneratorConfig(ModelConfig):
    """A model that writes answers without personal data.

    Attributes:
        temperature: How freely it writes.
    """

    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.7


class PiiDataConfig(_Run):
    """A run that makes pairs of answers.

    Attributes:
        data: JSON lines with dialogues, or folders of them: `{"messages": [...], "id": ...}` a line.
        generators: Models that write answers without personal data; each makes one for every sample.
        pii: What counts as personal data.
        positive: What the system prompt asks for: of generators, and of the tuned model under guidance.
        negative: The opposite of it, under which the answers of a pair change places.
        nudge: What every other try of a generator says once more, behind the user's message.
        guided: Whether each pair is written twice, once under each system prompt; else as the dialogue has it.
        prefixes: Whether personal data after the first of an answer make samples that begin within the answer.
        held: Share of dialogues that are kept for measuring.
        longest: Characters of an answer, at most.
        keep_refusals: Whether an answer that declines is of use.
        retries: How often a generator is asked anew.
        give_up: Samples in a row that a generator has no answer for, after which the run ends.
        seed: What a local model writes, and which dialogues are held out.
        concurrency: Calls of a model at once; answers that a local model writes together.
        requests_per_minute: Calls of a model that start within a minute; None sets no limit.
        timeout_s: Seconds for an answer.
    """

    data: _Paths
    generators: Annotated[tuple[GeneratorConfig, ...], Field(min_length=1)]
    pii: PiiRules = PiiRules()
    positive: _Asked = POSITIVE
    negative: _Asked = NEGATIVE
    nudge: _Asked = NUDGE
    guided: bool = True
    prefixes: bool = True
    held: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    longest: Annotated[int, Field(ge=50)] = 4_000
    keep_refusals: bool = False
    retries: Annotated[int, Field(ge=0)] = 3
    give_up: Annotated[int, Field(gt=0)] = 50
    seed: int = 0
    concurrency: Annotated[int, Field(gt=0, le=WAVE)] = 8
    requests_per_minute: _Number | None = None
    timeout_s: _Number = 120.0

    @field_validator("generators")
    @classmethod
    def _distinct(cls, generators: tuple[GeneratorConfig, ...]) -> tuple[GeneratorConfig, ...]:
        if len({one.name for one in generators}) != len(generators):
            raise ValueError("two of them have one name: give another model, or a folder of another name")
        return generators


class TuneConfig(_Run):
    """A run that tunes a local model by ORPO (Hong et al. 2024, arXiv 2403.07691) with LoRA (arXiv 2106.09685).

    Defaults are those of arXiv 2412.06846.

    Attributes:
        model: A folder with a Hugging Face causal language model, its tokenizer and chat template.
        pairs: What `lec-guard pii-data` wrote.
        beta: Weight of the odds ratio beside the likelihood of chosen answers.
        rank: Of the adapters.
        alpha: Their product counts `alpha / rank` times.
        dropout: Of what goes into the adapters. The base has none.
        targets: The layers that have adapters, by the end of their names; or all linear ones but the last.
        rate: The learning rate at first; it falls along a cosine.
        final_rate: Its share that is left in the end.
        epochs: How often all pairs are read.
        batch: Pairs that are read together.
        accumulate: Batches of one step.
        max_length: Tokens of a prompt and its answer; answers are cut there.
        max_prompt: Tokens of a prompt; its oldest messages are left out above that.
        checkpointing: Whether activations are computed twice, which saves memory and takes time.
        save_every: Steps from one checkpoint to the next.
        seed: Decides all that is drawn.
    """

    model: Path
    pairs: _Paths
    beta: _Number = 0.1
    rank: Annotated[int, Field(gt=0)] = 16
    alpha: _Number = 32.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.01
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    rate: _Number = 1e-4
    final_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    epochs: Annotated[int, Field(gt=0)] = 3
    batch: Annotated[int, Field(gt=0)] = 2
    accumulate: Annotated[int, Field(gt=0)] = 1
    max_length: Annotated[int, Field(ge=8)] = 2048
    max_prompt: Annotated[int, Field(gt=0)] = 1900
    checkpointing: bool = True
    save_every: Annotated[int, Field(gt=0)] = 200
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.max_prompt >= self.max_length:
            raise ValueError("max_prompt leaves no room for an answer: give less than max_length")
        return self


class PiiEvalConfig(_Run):
    """A run that counts personal data in answers, and right answers to questions, under guidance.

    Attributes:
        model: A folder with a Hugging Face causal language model, its tokenizer and chat template.
        adapters: What `lec-guard tune` wrote for it; None measures the model alone.
        prompts: What is answered for counting: `{"messages": [...], "prefix"?, "dialogue"?}` a line.
        questions: Questions with known answers: `{"question" or "messages", "answer", "choices"?}` a line.
        coefficients: How far answers are guided.
        space: What is guided; see `lec_guard.generate.Guidance`.
        plain: Whether answers without either system prompt are measured too.
        positive: What the system prompt asks for; None takes what the adapters were trained with.
        negative: The opposite of it.
        max_tokens: Tokens of an answer, at most.
        batch: Answers that are written together.
        sample: Prompts and questions to take, at most; None takes all.
        pii: What counts as personal data.
    """

    model: Path
    adapters: Path | None = None
    prompts: _Paths
    questions: tuple[Path, ...] = ()
    coefficients: Annotated[
        tuple[Annotated[float, Field(ge=0.0, le=MOST, allow_inf_nan=False)], ...], Field(min_length=1)
    ] = (1.0, 2.0, 3.0)
    space: Literal["log", "probability"] = "log"
    plain: bool = True
    positive: _Asked | None = None
    negative: _Asked | None = None
    max_tokens: Annotated[int, Field(gt=0)] = 256
    batch: Annotated[int, Field(gt=0)] = 8
    sample: Annotated[int, Field(gt=0)] | None = None
    pii: PiiRules = PiiRules()

    @field_validator("coefficients")
    @classmethod
    def _distinct(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) != len(values):
            raise ValueError("a value stands twice")
        return values


def _from_folder(key: str, value: Any, folder: Path) -> Any:
    if key in ("data", "pairs", "prompts", "questions", "model", "adapters"):
        return paths_from(value, folder)
    if key == "generators" and isinstance(value, list):
        return [_generator(one, folder) for one in value]
    if key == "pii" and isinstance(value, dict) and isinstance(value.get("ner"), str):
        # Else it is the name of a package.
        own = folder / value["ner"]
        return {**value, "ner": str(own) if own.is_dir() else value["ner"]}
    return value


def _generator(value: Any, folder: Path) -> Any:
    name = value.get("model") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name.startswith(LOCAL):
        return value
    return {**value, "model": f"{LOCAL}{folder / name.removeprefix(LOCAL)}"}
