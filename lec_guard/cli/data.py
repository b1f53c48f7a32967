"""The options with which commands name labelled data."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Text = Annotated[str | None, typer.Option("--text", metavar="COLUMN", help="Column with the text that is judged.")]
Label = Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Column with its label.")]
Context = Annotated[str | None, typer.Option("--context", metavar="COLUMN", help="Column with what it answers to.")]
Family = Annotated[str | None, typer.Option("--family", metavar="COLUMN", help="Column with where it comes from.")]
StageColumn = Annotated[str | None, typer.Option("--stage-column", metavar="COLUMN", help="Column with its stage.")]
Language = Annotated[str | None, typer.Option("--language", metavar="COLUMN", help="Column with its language.")]
Benign = Annotated[str | None, typer.Option("--benign", metavar="LABEL", help="The label of harmless texts.")]
Positive = Annotated[
    str | None, typer.Option("--positive", metavar="NAME", help="What to call the other class of 0/1 labels.")
]
AllowLabel = Annotated[
    list[str] | None, typer.Option("--allow-label", metavar="LABEL", help="A label that looks like a typo and is none.")
]
OnConflict = Annotated[
    str | None, typer.Option("--on-conflict", metavar="error|drop", help="What to do with texts of several labels.")
]
Sample = Annotated[int | None, typer.Option("--sample", metavar="N", help="Read N rows of each label at most.")]
DefaultStage = Annotated[str | None, typer.Option("--stage", help="The stage of rows that name none; else input.")]


def columns(
    text: str | None,
    label: str | None,
    context: str | None,
    family: str | None,
    stage: str | None,
    language: str | None,
) -> dict[str, Any]:
    """The columns that were named.

    Args:
        text: See `lec_guard.train.data.Columns`, as all of them.
        label: That of labels.
        context: That of contexts.
        family: That of families.
        stage: That of stages.
        language: That of languages.

    Returns:
        Those that are not None.
    """
    named = {"text": text, "label": label, "context": context, "family": family, "stage": stage, "language": language}
    return {key: column for key, column in named.items() if column is not None}
