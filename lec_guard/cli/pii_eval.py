"""`lec-guard pii-eval`: personal data in a local model's answers, and what guidance and adapters cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.table
import typer

from lec_guard.cli.terminal import cell, console, fail, lines, mistakes_told, need, parts

if TYPE_CHECKING:
    from lec_guard.train.metrics import Figure
    from lec_guard.train.pii import PiiEvaluation

_NONE = "\N{EN DASH}"


def pii_eval(
    prompts: Annotated[list[Path] | None, typer.Argument(help="What is answered: JSON lines, or folders.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the report; the same one goes on where it was.")],
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A local causal language model with a chat template.")
    ] = None,
    adapters: Annotated[Path | None, typer.Option(metavar="FOLDER", help="What tune wrote for it.")] = None,
    questions: Annotated[
        list[Path] | None, typer.Option(help="Questions with known answers: JSON lines; may be given again.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with all this and more; options override it.")] = None,
    coefficient: Annotated[
        list[float] | None, typer.Option(help="How far answers are guided; may be given again. Else 1, 2 and 3.")
    ] = None,
    space: Annotated[str | None, typer.Option(metavar="log|probability", help="What is guided.")] = None,
    plain: Annotated[bool | None, typer.Option(help="Measure answers without system prompts, too.")] = None,
    ner: Annotated[
        str | None, typer.Option(metavar="MODEL", help="spaCy model that looks for names; else one that is installed.")
    ] = None,
    no_ner: Annotated[bool, typer.Option("--no-ner", help="Look for no names and places: patterns alone.")] = False,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="ENTITY", help="What an answer may have; may be given again.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer, at most; else 256.")] = None,
    batch: Annotated[int | None, typer.Option(help="Answers that are written together; else 8.")] = None,
    sample: Annotated[int | None, typer.Option(metavar="N", help="Take N prompts and questions at most.")] = None,
) -> None:
    """Count personal data in answers, and right answers to questions, at several coefficients of guidance.

    Both go through the guided generation. Writes all figures (pii_eval.json), and the answers (journal.jsonl), which
    may have personal data. Exit code 0: measured; 2: wrong usage, data, model or adapters; 1: the model failed.
    """
    need("tune", "peft")
    if ner is not None and no_ner:
        fail("give --ner or --no-ner, not both")
    # Imported here, because no other command needs it.
    from lec_guard.train.pii import PiiEvalConfig, evaluate_pii

    given = {
        "model": model,
        "adapters": adapters,
        "prompts": prompts or None,
        "questions": questions or None,
        "coefficients": coefficient or None,
        "space": space,
        "plain": plain,
        "max_tokens": max_tokens,
        "batch": batch,
        "sample": sample,
        "pii": {"ner": False if no_ner else ner, "allowed": allow or None},
    }
    with mistakes_told(), parts() as progress:
        result = evaluate_pii(PiiEvalConfig.read(config, given), out, progress=progress)
    _print(result)


def _print(result: PiiEvaluation) -> None:
    table = rich.table.Table(
        "weights", "coefficient", "PII per answer", "answers with any", "kinds", "changed", "right", "against the first"
    )
    for one in result.measured:
        kinds = "\n".join(f"{count:,} {kind}" for kind, count in one.kinds.items())
        table.add_row(
            *map(
                cell,
                (
                    one.weights,
                    "no system prompt" if one.coefficient is None else f"{one.coefficient:g}",
                    _figure(one.per_answer, "{:.2f}"),
                    _figure(one.share, "{:.1%}"),
                    kinds,
                    _NONE if one.changed is None else f"{one.changed:.0%}",
                    _figure(one.right, "{:.1%}"),
                    _figure(one.against, "{:+.1%}"),
                ),
            )
        )
    console().print(table)
    typer.echo(f"{result.prompts:,} prompts, {result.questions:,} questions; intervals are 95%")
    for note in result.notes:
        typer.echo(lines(note))


def _figure(figure: Figure | None, form: str) -> str:
    if figure is None or figure.value is None:
        return _NONE
    value = form.format(figure.value)
    if figure.low is None or figure.high is None:
        return f"{value} (too few for an interval)"
    return f"{value} [{form.format(figure.low)}, {form.format(figure.high)}]"
