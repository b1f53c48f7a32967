"""A report as tables of words, with the targets beside the figures: for a terminal, and for a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lec_guard.bench.report import (
    Comparison,
    Costs,
    Latency,
    Machine,
    Memory,
    Others,
    Overhead,
    Peak,
    Ratio,
    Report,
    Throughput,
    Timing,
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of words.

    Attributes:
        title: What it shows.
        columns: The heads of its columns.
        rows: Its rows, each as long as `columns`.
        note: What to know when reading it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be.

    Attributes:
        limit: The number.
        words: How it is written.
        at_least: Whether the figure should not be below it; otherwise it should not be above.
    """

    limit: float
    words: str
    at_least: bool = False

    def cells(self, figure: float) -> tuple[str, str]:
        """The target, and whether a figure meets it.

        Args:
            figure: The figure, in the unit of the limit.
        """
        met = figure >= self.limit if self.at_least else figure <= self.limit
        return self.words, "yes" if met else "no"


SHARE = Target(0.6, "≥ 60%", at_least=True)
"""Bare matrix products as a share of the time for scoring, windowing taken off."""

ONE_MORE_HEAD = Target(1.01, "≤ 1%")
"""Time with one more head to time without."""

OWN_CODE = Target(0.3, "≤ 300 µs")
"""Milliseconds of our own code in a step, without the tokenizer."""

COLD_START = Target(1.5, "≤ 1.5x")
"""A first verdict to the imports alone."""

TIMES_FASTER = {
    ("DeBERTa-v3-base", "as shipped"): Target(50, "≥ 50x", at_least=True),
    ("DeBERTa-v3-base", "auto"): Target(50, "≥ 50x", at_least=True),
    ("DeBERTa-v3-base", "same dtype"): Target(20, "≥ 20x", at_least=True),
    ("DeBERTa-v3-xsmall", "as shipped"): Target(10, "≥ 10x", at_least=True),
    ("DeBERTa-v3-xsmall", "auto"): Target(10, "≥ 10x", at_least=True),
    ("DeBERTa-v3-xsmall", "same dtype"): Target(5, "≥ 5x", at_least=True),
}
"""Whole models to our detector, at `PROMPT` tokens."""

_BUSY = 0.5
"""Load a core from which times are not those of the machine."""

PROMPT = 128
"""Tokens of a prompt of ordinary length."""


def tables(report: Report) -> list[Table]:
    """All that a report holds.

    Args:
        report: The report.

    Returns:
        A table for each section that was measured.
    """
    return list(_tables(report))


def _tables(report: Report) -> Iterator[Table]:
    yield _machine(report.machine)
    if report.peak:
        yield _peak(report.peak)
    if report.latency:
        yield _latency(report.latency, report)
    if report.throughput:
        yield _throughput(report.throughput)
    if report.costs:
        yield from _costs(report.costs, report)
    if report.overhead:
        yield _overhead(report.overhead, report)
    if report.cold_start:
        start = report.cold_start
        yield Table(
            "Cold start",
            ("import torch, transformers (s)", "first verdict (s)", "ratio", "target", "met", "of it: importing (s)",
             "loading (s)", "checking (s)"),
            ((
                _seconds(start.imports), _seconds(start.verdict), _times(start.ratio),
                *COLD_START.cells(start.ratio.p50), f"{start.import_ms / 1000:.2f}", f"{start.load_ms / 1000:.2f}",
                f"{start.check_ms / 1000:.2f}",
            ),),
            "New interpreters by turns, from their start to their end.",
        )  # fmt: skip
    if report.memory:
        yield _memory(report.memory)
    if report.others:
        yield from _others(report.others)
    if report.skipped:
        yield Table(
            "Not measured", ("part", "what", "why"), tuple((one.part, one.what, one.why) for one in report.skipped)
        )


def _machine(machine: Machine) -> Table:
    rows = [
        ("processor", machine.processor),
        ("cores", str(machine.cores)),
        ("threads of torch", str(machine.torch_threads)),
        ("system", machine.system),
        ("versions", ", ".join(f"{package} {version}" for package, version in machine.versions.items())),
    ]
    if machine.load is not None:
        rows.append(("load before", f"{machine.load:.1f}"))
    busy = machine.load is not None and machine.load > machine.cores * _BUSY
    return Table(
        "Machine",
        ("what", "value"),
        tuple(rows),
        "Others were at work on this machine: its times are too long, and not to be quoted." if busy else "",
    )


def _peak(peaks: tuple[Peak, ...]) -> Table:
    return Table(
        "Matrix products",
        ("dtype", "by", "size", "GFLOP/s (median)", "GFLOP/s (best)"),
        tuple((one.dtype, one.by, f"{one.side}²", f"{one.gflops:.0f}", f"{one.best_gflops:.0f}") for one in peaks),
        "One square product after the other: what this processor can do at most.",
    )


def _latency(found: tuple[Latency, ...], report: Report) -> Table:
    names = list(dict.fromkeys(one.backend for one in found))
    lengths = list(dict.fromkeys((one.tokens, one.windows) for one in found))
    cell = {(one.tokens, one.backend): _p50_p95(one.time) for one in found}
    shown = {
        "auto": f"auto ({report.detector.auto})",
        report.detector.shipped: f"{report.detector.shipped}, as shipped",
    }
    return Table(
        "Latency of one text, p50 / p95 in ms",
        ("tokens", "windows", *(shown.get(name, name) for name in names)),
        tuple((str(tokens), str(windows), *(cell[tokens, name] for name in names)) for tokens, windows in lengths),
        f"`LayerDetector.score` of one step: tokenizer, normalisation, windows, model, heads. {_rounds(found[0].time)}",
    )


def _throughput(found: tuple[Throughput, ...]) -> Table:
    rows = tuple(
        (
            one.backend, f"{one.tokens_per_s:,.0f}", f"{one.padding:.1%}", _seconds(one.score), _seconds(one.windowing),
            _seconds(one.products), f"{one.products_gflops:.0f}", f"{one.share.p50:.0%}",
            f"{one.share_without_windowing.p50:.0%}", *SHARE.cells(one.share_without_windowing.p50),
        )
        for one in found
    )  # fmt: skip
    first = found[0]
    return Table(
        "Throughput of mixed lengths",
        ("backend", "tokens/s", "padding", "score (s)", "windowing (s)", "bare products (s)", "their GFLOP/s", "share",
         "share, windowing apart", "target", "met"),
        rows,
        f"{first.texts} texts of {first.tokens} tokens in calls of {first.per_call}. The share is the time for the "
        "bare matrix products of the same forward passes, in the same shapes and dtype (int8: attention in float32, as "
        "exports have it), to the time for scoring. Windowing is normalisation, tokenizer and windows. "
        + _rounds(first.score),
    )  # fmt: skip


def _costs(costs: Costs, report: Report) -> Iterator[Table]:
    head, normal, context = costs.head, costs.normalisation, costs.context
    backend = report.detector.shipped
    yield Table(
        f"Cost of one more head, {backend}",
        ("tokens", "heads", "bundle (ms)", "one more (ms)", "extra", "target", "met", "extra in our code (µs)",
         "of the whole"),
        ((
            str(head.tokens), f"{head.heads} → {head.heads + 1}", _ms(head.bundle.p50_ms), _ms(head.one_more.p50_ms),
            f"{head.ratio.p50 - 1:+.1%}", *ONE_MORE_HEAD.cells(head.ratio.p50), f"{head.extra_ms * 1000:+.0f}",
            f"{head.extra_ms / head.bundle.p50_ms:+.1%}",
        ),),
        f"Beside the ratio of whole calls, which the model's noise blurs, what our own code takes longer. "
        f"{_rounds(head.bundle)}",
    )  # fmt: skip
    yield Table(
        f"Cost of normalisation, {backend}",
        ("what", "without (ms)", "with (ms)", "ratio"),
        (
            (
                f"scoring {normal.tokens} tokens: plain, and with words in leet "
                f"({normal.plain_windows} and {normal.disguised_windows} windows)",
                _ms(normal.plain.p50_ms), _ms(normal.disguised.p50_ms), _times(normal.ratio),
            ),
            (
                f"windows of {normal.tokens} plain tokens: as they are, and searched for what is meant",
                _ms(normal.as_it_is.p50_ms), _ms(normal.as_meant_too.p50_ms),
                f"{normal.as_meant_too.p50_ms / normal.as_it_is.p50_ms:.2f}x",
            ),
        ),
        "A text that has something to undo is read twice.",
    )  # fmt: skip
    yield Table(
        f"Cost of a context of {context.context_tokens} tokens, {backend}",
        ("what", "without (ms)", "with (ms)", "ratio"),
        (
            ("a context not seen before", _ms(context.without.p50_ms), _ms(context.new.p50_ms),
             _times(context.new_ratio)),
            ("a context seen before", _ms(context.without.p50_ms), _ms(context.again.p50_ms),
             _times(context.again_ratio)),
        ),
        "" if context.context_read else "The heads of this detector do not read the context.",
    )  # fmt: skip


def _overhead(found: tuple[Overhead, ...], report: Report) -> Table:
    return Table(
        f"Our own code in a step, {report.detector.shipped}",
        ("tokens", "Guard.check (ms)", "forward pass (ms)", "tokenizer (µs)", "own code, p50 / p95 (µs)", "target",
         "met", "of it normalisation and windows (µs)", "the rest (µs)", "GuardRunnable on top (µs)",
         "an idle runnable (µs)"),
        tuple(
            (
                str(one.tokens), _ms(one.check.p50_ms), _ms(one.forward.p50_ms), f"{one.tokenizer.p50_ms * 1000:.0f}",
                f"{one.own.p50_ms * 1000:.0f} / {one.own.p95_ms * 1000:.0f}", *OWN_CODE.cells(one.own.p50_ms),
                f"{one.windowing.p50_ms * 1000:.0f}",
                f"{(one.own.p50_ms - one.windowing.p50_ms) * 1000:.0f}", f"{one.runnable_ms * 1000:.0f}",
                f"{one.idle_runnable.p50_ms * 1000:.0f}",
            )
            for one in found
        ),
        "Own code is `Guard.check` less the model's forward pass and the tokenizer's `encode`: normalisation, windows, "
        "heads, policy and verdict. What LangChain's bookkeeping takes for any step is the idle runnable. "
        + _rounds(found[0].check),
    )  # fmt: skip


def _memory(found: tuple[Memory, ...]) -> Table:
    sizes = [text.text_bytes for text in found[0].texts]
    return Table(
        "Resident memory in MB",
        ("form", "torch imported", "after imports", "detector loaded",
         *(f"peak, text of {size / 1e6:g} MB (s)" for size in sizes), "on disk"),
        tuple(
            (
                one.form, "no" if one.without_torch else "yes", f"{one.imported_mb:.0f}", f"{one.loaded_mb:.0f}",
                *(_peak_of_text(one, size) for size in sizes),
                "" if one.disk_mb is None else f"{one.disk_mb:.0f}",
            )
            for one in found
        ),
        "Each in a process of its own. After imports: of torch and transformers, or of ONNX Runtime alone."
        + (" What is exported scores the shortest text alone." if len(sizes) > 1 else ""),
    )  # fmt: skip


def _peak_of_text(form: Memory, size: int) -> str:
    return "".join(f"{text.peak_mb:.0f} ({text.seconds:.1f})" for text in form.texts if text.text_bytes == size)


def _others(others: Others) -> Iterator[Table]:
    at_prompt = [one for one in others.comparisons if one.tokens == PROMPT]
    if at_prompt:
        yield Table(
            f"Other models to ours, at {PROMPT} tokens",
            ("model", "layers", "dtype", "ours", "compared", "times as long", "5% to 95% of rounds", "target", "met"),
            tuple(_comparison(one) for one in at_prompt),
            "Random weights in their real sizes, their tokenizers not counted; ours is counted, with heads and all. "
            "As shipped and auto: their float32 to what ours runs on; same dtype: both on torch.",
        )
    for model in dict.fromkeys(one.model for one in others.passes):
        theirs = [one for one in others.passes if one.model == model]
        ours = [one for one in others.ours if one.beside == model]
        forms = list(dict.fromkeys((one.layers, one.of_layers, one.dtype) for one in theirs))
        backends = list(dict.fromkeys(one.backend for one in ours))
        cells: dict[tuple[int, object], str] = {
            (one.tokens, (one.layers, one.of_layers, one.dtype)): _p50_p95(one.time) for one in theirs
        }
        cells |= {(one.tokens, one.backend): _p50_p95(one.time) for one in ours}
        yield Table(
            f"{model} and ours, p50 / p95 in ms",
            ("tokens", *(f"{_layers(layers, of)} {dtype}" for layers, of, dtype in forms),
             *(f"ours, {backend}" for backend in backends)),
            tuple(
                (str(tokens), *(cells[tokens, column] for column in (*forms, *backends)))
                for tokens in dict.fromkeys(one.tokens for one in theirs)
            ),
            _rounds(theirs[0].time),
        )  # fmt: skip


def _comparison(one: Comparison) -> tuple[str, ...]:
    target = TIMES_FASTER.get((one.model, one.kind)) if one.layers == one.of_layers else None
    return (
        one.model,
        _layers(one.layers, one.of_layers),
        one.dtype,
        one.ours,
        one.kind,
        _times(one.ratio),
        f"{one.ratio.p5:.1f} to {one.ratio.p95:.1f}",
        *(target.cells(one.ratio.p50) if target else ("", "")),
    )


def _layers(layers: int, of_layers: int) -> str:
    return f"{layers} layers" if layers == of_layers else f"{layers} of {of_layers} layers"


def _rounds(time: Timing) -> str:
    return f"Medians of {time.rounds} rounds." if time.rounds > 1 else "One round."


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.1f}"


def _p50_p95(time: Timing) -> str:
    return f"{_ms(time.p50_ms)} / {_ms(time.p95_ms)}"


def _seconds(time: Timing) -> str:
    return f"{time.p50_ms / 1000:.2f}"


def _times(ratio: Ratio) -> str:
    return f"{ratio.p50:.2f}x" if ratio.p50 < 10 else f"{ratio.p50:.1f}x"
