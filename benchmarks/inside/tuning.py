"""Preference pairs that the toy model itself makes, adapters by ORPO, and the model with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.inside.behaviour import ENTITIES, Writer, load
from benchmarks.inside.data import DIALOGUE_SEED, dialogues, write_lines
from lec_guard.generate.adapters import CARD, TenantAdapters
from lec_guard.train.harmaug.config import LOCAL
from lec_guard.train.pii.config import GeneratorConfig, PiiDataConfig, PiiRules, TuneConfig
from lec_guard.train.pii.run import PAIRS, PiiDataReport, make_pairs
from lec_guard.train.pii.run import REPORT as PAIRS_REPORT
from lec_guard.train.pii.tune import REPORT, WORK, TuneError, TuneReport, tune

PUBLISHED_RATE = 1e-4
"""Of arXiv 2412.06846."""

_GENERATORS = {"first": 0.7, "second": 1.0}
"""Name -> temperature. Both are the toy model, for there is no other one that speaks its language."""

_LONGEST = 60
"""Tokens of an answer about people; the longest has about forty."""


def make(model: Path, out: Path, count: int, *, guided: bool) -> PiiDataReport:
    """Make pairs of dialogues whose answers hold personal data.

    Args:
        model: The model.
        out: A folder; what lies there is not made again.
        count: Dialogues.
        guided: Whether pairs stand under the positive system prompt and, swapped, under the negative one; else under
            none.

    Returns:
        What came of it.
    """
    if (out / PAIRS_REPORT).exists():
        return PiiDataReport.model_validate_json((out / PAIRS_REPORT).read_bytes())
    out.mkdir(parents=True, exist_ok=True)
    rows = [{"id": str(number), "messages": one.plain()} for number, one in enumerate(dialogues(count, DIALOGUE_SEED))]
    write_lines(out / "dialogues.jsonl", rows)
    for name in _GENERATORS:  # two of one name are refused
        shutil.copytree(model, out / "generators" / name, dirs_exist_ok=True)
    generators = tuple(
        GeneratorConfig(model=f"{LOCAL}{out / 'generators' / name}", temperature=temperature, max_tokens=_LONGEST)
        for name, temperature in _GENERATORS.items()
    )
    config = PiiDataConfig(
        data=(out / "dialogues.jsonl",),
        generators=generators,
        pii=PiiRules(entities=ENTITIES, ner=False),
        guided=guided,
        held=0.0,  # what is measured are questions in other paraphrases, of other people
        concurrency=32,
    )
    return make_pairs(config, out)


def tuned(model: Path, pairs: Path, out: Path, rate: float, epochs: int) -> TuneReport:
    """Tune the model; an interrupted run goes on.

    Args:
        model: The model.
        pairs: Where `make` wrote.
        out: The folder for the adapters.
        rate: The learning rate; all else is as published.
        epochs: How often pairs are read.

    Returns:
        What came of it.

    Raises:
        TuneError: If the run did not end.
    """
    if (out / CARD).exists():
        return TuneReport.model_validate_json((out / REPORT).read_bytes())
    config = TuneConfig(model=model, pairs=(pairs / PAIRS,), rate=rate, epochs=epochs, checkpointing=False)
    report = tune(config, out, resume=(out / WORK).exists())
    if not isinstance(report, TuneReport):
        raise TuneError(f"{out}: ended after step {report}")
    return report


@contextmanager
def with_adapters(model: Path, folder: Path) -> Iterator[Writer]:
    """The model with adapters, for as long as it is used.

    Args:
        model: The model.
        folder: What `tuned` wrote.

    Yields:
        What writes.
    """
    writer = load(model)
    adapters = TenantAdapters(writer.model)
    adapters.attach("toy", folder)
    with adapters.using("toy") as own:
        yield Writer(model=own, tokenizer=writer.tokenizer)
