"""What a measurement found, as JSON holds it.

Times are in milliseconds, memory in megabytes of 10^6 bytes. A figure is the median of rounds in which everything
that it is compared with took its turn; a ratio is the median of the ratios of the single rounds, never a quotient of
figures from different runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lec_guard.errors import LecGuardError


class ReportError(LecGuardError):
    """A file is not the report of a measurement."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Timing(_Part):
    """How long something took.

    Attributes:
        p50_ms: The median.
        p95_ms: The 95th percentile.
        rounds: How often it was measured, after a first time that does not count.
    """

    p50_ms: float
    p95_ms: float
    rounds: Annotated[int, Field(gt=0)]


class Ratio(_Part):
    """How many times as long one thing took as another in the same round.

    Attributes:
        p50: The median over the rounds.
        p5: The 5th percentile.
        p95: The 95th percentile.
        rounds: How many rounds there were.
    """

    p50: float
    p5: float
    p95: float
    rounds: Annotated[int, Field(gt=0)]


class Skipped(_Part):
    """What was not measured.

    Attributes:
        part: The part of the measurement that it belongs to.
        what: What was left out.
        why: Why, and where a package is missing the command that installs it.
        failed: Whether it should have worked here.
    """

    part: str
    what: str
    why: str
    failed: bool = False


class Machine(_Part):
    """Where it was measured.

    Attributes:
        processor: The processor's name.
        cores: Cores that this process may use.
        torch_threads: Threads of a matrix product in torch.
        system: Operating system and architecture.
        versions: Package -> version, with Python's own.
        load: Processes that wanted a core in the minute before, where the system tells: far above 0 means that
            others were at work.
    """

    processor: str
    cores: int
    torch_threads: int
    system: str
    versions: dict[str, str]
    load: float | None = None


class DetectorInfo(_Part):
    """What was measured.

    Attributes:
        detector_id: Name and content hash of the bundle.
        shipped: The backend that it runs on unless told otherwise.
        auto: What `backend="auto"` chose; None where it can't choose or nothing needed to know.
    """

    detector_id: str
    shipped: str
    auto: str | None = None


class Peak(_Part):
    """How fast one large square matrix product is.

    Attributes:
        dtype: What it computes in.
        by: What computes it.
        side: Rows and columns of each matrix.
        gflops: Billions of multiplications and additions a second, by the median time.
        best_gflops: The same by the shortest time.
        rounds: How often it was measured.
    """

    dtype: str
    by: str
    side: int
    gflops: float
    best_gflops: float
    rounds: int


class Latency(_Part):
    """How long one text takes in `LayerDetector.score`, alone in its call.

    Attributes:
        backend: What the detector runs on; "auto" is the object that `backend="auto"` gives.
        tokens: Tokens of the text, with the special ones.
        windows: How many windows one such text was read in.
        time: How long.
    """

    backend: str
    tokens: int
    windows: int
    time: Timing


class Throughput(_Part):
    """How fast texts of mixed lengths go through `LayerDetector.score`, and what the processor could do at best.

    Attributes:
        backend: What the detector runs on.
        texts: How many texts.
        per_call: Texts in a call.
        tokens: Tokens of all texts, with the special ones.
        read_tokens: Tokens that the model read: more, because each window has special ones.
        padding: Share of padding in what went through the model.
        passes: Forward passes.
        score: Time for all texts.
        windowing: Time for normalisation, tokenizer and windows by themselves.
        products: Time for the bare matrix products of the forward passes, in the same shapes and dtype.
        products_gflops: How fast those were.
        tokens_per_s: Tokens of the texts a second.
        share: Time for the products as a share of the whole.
        share_without_windowing: The same with the time for windowing taken off the whole.
    """

    backend: str
    texts: int
    per_call: int
    tokens: int
    read_tokens: int
    padding: float
    passes: int
    score: Timing
    windowing: Timing
    products: Timing
    products_gflops: float
    tokens_per_s: float
    share: Ratio
    share_without_windowing: Ratio


class HeadCost(_Part):
    """What one more head costs.

    Attributes:
        tokens: Tokens of each text.
        heads: Heads of the bundle.
        bundle: Time with those.
        one_more: Time with one more, binary.
        ratio: The second to the first.
        extra_ms: What our own code takes longer in the median: without the noise of the model and the tokenizer.
    """

    tokens: int
    heads: int
    bundle: Timing
    one_more: Timing
    ratio: Ratio
    extra_ms: float


class NormalisationCost(_Part):
    """What it costs to read a text as it is meant.

    Attributes:
        tokens: Tokens of each text.
        plain: Time for a text that has nothing to undo.
        plain_windows: Its windows.
        disguised: Time for one of as many tokens that has.
        disguised_windows: Its windows: it is read twice.
        ratio: The second to the first.
        as_it_is: Time to cut the plain text into windows, as it is.
        as_meant_too: The same with the search for what may be meant.
    """

    tokens: int
    plain: Timing
    plain_windows: int
    disguised: Timing
    disguised_windows: int
    ratio: Ratio
    as_it_is: Timing
    as_meant_too: Timing


class ContextCost(_Part):
    """What a step's context costs.

    Attributes:
        tokens: Tokens of each text.
        context_tokens: Tokens of each context.
        context_read: Whether the detector reads contexts at all; where not, all times are alike.
        without: Time without a context.
        new: Time with a context that was not seen before.
        again: Time for a new text with a context that was.
        new_ratio: With a new context to without.
        again_ratio: With a known context to without.
    """

    tokens: int
    context_tokens: int
    context_read: bool
    without: Timing
    new: Timing
    again: Timing
    new_ratio: Ratio
    again_ratio: Ratio


class Costs(_Part):
    """What parts of the detector cost, on the backend as shipped.

    Attributes:
        head: One more head.
        normalisation: Reading texts as they are meant.
        context: Reading a context.
    """

    head: HeadCost
    normalisation: NormalisationCost
    context: ContextCost


class Overhead(_Part):
    """Our own code around the model, for one step.

    Attributes:
        tokens: Tokens of the step's text.
        check: `Guard.check`.
        forward: The model's forward pass in it.
        tokenizer: The tokenizer's own `encode` in it.
        own: The rest: normalisation, windows, batches, heads, policy, verdict.
        windowing: Of that normalisation and windows, measured by themselves.
        runnable_ms: What `GuardRunnable.invoke` takes on top of the own code of `Guard.check`: reading the value,
            and LangChain's bookkeeping.
        idle_runnable: A LangChain runnable that does nothing: the bookkeeping alone.
    """

    tokens: int
    check: Timing
    forward: Timing
    tokenizer: Timing
    own: Timing
    windowing: Timing
    runnable_ms: float
    idle_runnable: Timing


class ColdStart(_Part):
    """A new interpreter until its first verdict.

    Attributes:
        imports: One that imports torch and transformers, and ends.
        verdict: One that imports lec-guard, makes a guard, checks a step, and ends.
        ratio: The second to the first.
        import_ms: Of the second, importing lec-guard.
        load_ms: Making the guard.
        check_ms: The first check.
    """

    imports: Timing
    verdict: Timing
    ratio: Ratio
    import_ms: float
    load_ms: float
    check_ms: float


class PeakMemory(_Part):
    """What scoring one text needed.

    Attributes:
        text_bytes: Size of the text.
        peak_mb: The most memory that the process ever held.
        seconds: How long scoring took.
        windows: Windows that the text was read in.
    """

    text_bytes: int
    peak_mb: float
    seconds: float
    windows: int


class Memory(_Part):
    """Resident memory of a process that does nothing else.

    Attributes:
        form: The detector as shipped, or an exported bundle.
        without_torch: Whether the process ended without torch having been imported.
        imported_mb: After importing what it builds on: torch and transformers, or ONNX Runtime.
        loaded_mb: After loading the detector.
        texts: While scoring; each text in a process of its own.
        disk_mb: Size of an exported bundle, which is all that it needs.
    """

    form: str
    without_torch: bool
    imported_mb: float
    loaded_mb: float
    texts: tuple[PeakMemory, ...]
    disk_mb: float | None = None


class ForwardPass(_Part):
    """How long another model takes for one input of random token ids; its tokenizer is not counted.

    Attributes:
        model: What it is called.
        layers: Layers that are left.
        of_layers: Layers of the whole model.
        dtype: What it computes in.
        tokens: Length of the input.
        time: How long.
    """

    model: str
    layers: int
    of_layers: int
    dtype: str
    tokens: int
    time: Timing


class OurPass(_Part):
    """How long our detector takes in the same rounds, in `LayerDetector.score` of a text: tokenizer, heads and all.

    Attributes:
        beside: The other model.
        backend: What our detector runs on.
        tokens: Length of the text.
        time: How long.
    """

    beside: str
    backend: str
    tokens: int
    time: Timing


class Comparison(_Part):
    """How many times as long another model takes as our detector.

    Attributes:
        model: The other model.
        layers: Layers that are left of it.
        of_layers: Layers of the whole.
        dtype: What it computes in.
        ours: The backend of our detector.
        kind: `as shipped`: float32 against our default; `auto`: float32 against what auto chose; `same dtype`:
            both on torch in one dtype.
        tokens: Length of the input.
        ratio: Its time to ours.
    """

    model: str
    layers: int
    of_layers: int
    dtype: str
    ours: str
    kind: Literal["as shipped", "auto", "same dtype"]
    tokens: int
    ratio: Ratio


class Others(_Part):
    """Other models beside our detector, in the same rounds.

    Attributes:
        passes: Their times.
        ours: Our times.
        comparisons: How many times as long they take.
    """

    passes: tuple[ForwardPass, ...]
    ours: tuple[OurPass, ...]
    comparisons: tuple[Comparison, ...]


class Report(_Part):
    """All that one run of `lec-guard bench` found; what was not asked for is None.

    Attributes:
        version: Version of this layout.
        command: What was run.
        date: The day, in UTC, as YYYY-MM-DD.
        detector: What was measured.
        machine: Where.
        peak: Matrix products by dtype.
        latency: One text at a time.
        throughput: Many texts of mixed lengths.
        costs: What parts of the detector cost.
        overhead: Our own code.
        cold_start: A new interpreter.
        memory: Resident memory.
        others: Other models.
        skipped: What was asked for and not measured.
    """

    version: Literal[1] = 1
    command: str
    date: str
    detector: DetectorInfo
    machine: Machine
    peak: tuple[Peak, ...] | None = None
    latency: tuple[Latency, ...] | None = None
    throughput: tuple[Throughput, ...] | None = None
    costs: Costs | None = None
    overhead: tuple[Overhead, ...] | None = None
    cold_start: ColdStart | None = None
    memory: tuple[Memory, ...] | None = None
    others: Others | None = None
    skipped: tuple[Skipped, ...] = ()

    def to_json(self) -> str:
        """The report as a file holds it.

        Returns:
            JSON with a line end.
        """
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


def read_report(file: Path) -> Report:
    """Read a report.

    Args:
        file: What `lec-guard bench --out` wrote.

    Returns:
        The report.

    Raises:
        ReportError: If the file can't be read, or is of another layout.
    """
    try:
        return Report.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ReportError(f"{file}: can't be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ReportError(f"{file}: not a report of lec-guard bench: {where}: {first['msg']}") from error
