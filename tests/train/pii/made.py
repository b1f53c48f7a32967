"""Dialogues with made-up names, generators that follow a script, a spaCy model by heart, and a tiny model to tune."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import spacy

from lec_guard.generate.prompts import NEGATIVE, POSITIVE
from lec_guard.testing import ScriptedChatModel
from lec_guard.train.pii import PiiDataConfig
from tests.generate.tiny import model_of, tokenizer_of

NAMES = ("Ada Quill", "Bo Quill", "Cy Quill", "Di Quill", "Ed Quill", "Flo Quill", "Gus Quill", "Hal Quill")
DISCREET, SHY = "That is not mine to tell.", "Nobody may know who it was."
"""What the two generators say."""


def save_lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(contents)]


def dialogues(count: int = len(NAMES)) -> list[dict[str, Any]]:
    """One name in each."""
    return [
        {"id": f"talk {at}", "messages": turns(f"Who wrote letter {at} ?", f"{name} wrote letter {at} .")}
        for at, name in enumerate(NAMES[:count])
    ]


def save_names(folder: Path) -> Path:
    """A spaCy model that knows the names by heart."""
    nlp = spacy.blank("en")
    nlp.meta |= {"name": "by_heart", "version": "1.0"}
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": name} for name in NAMES])
    nlp.to_disk(folder)
    return folder


def generators(*answers: str | Callable[..., Any]) -> list[ScriptedChatModel]:
    return [ScriptedChatModel(answer=answer) for answer in answers or (DISCREET, SHY)]


def data_config(data: Path, ner: Path | bool, **given: Any) -> PiiDataConfig:
    own = {
        "data": [data],
        "generators": [{"model": "first"}, {"model": "second"}],
        "pii": {"ner": str(ner) if isinstance(ner, Path) else ner},
        "held": 0.25,
    }
    return PiiDataConfig.read(None, own | given)


def save_model(folder: Path, *texts: str, kind: str = "llama", template: bool = True) -> Path:
    """A tiny random model whose tokens are the words of the dialogues and of some texts."""
    own = [one["content"] for row in dialogues() for one in row["messages"]]
    tokenizer = tokenizer_of(*own, DISCREET, SHY, POSITIVE, NEGATIVE, *texts)
    if not template:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    model_of(kind, vocabulary=len(tokenizer)).save_pretrained(folder)
    return folder


def pairs(count: int = 4, *, guided: bool = True) -> list[dict[str, Any]]:
    """Rows as `lec-guard pii-data` writes them."""
    rows = []
    for at, name in enumerate(NAMES[:count]):
        own = [{"role": "user", "content": f"Who wrote letter {at} ?"}]
        told, kept = f"{name} wrote letter {at} .", DISCREET
        if not guided:
            rows.append({"prompt": own, "chosen": kept, "rejected": told, "dialogue": f"talk {at}"})
            continue
        for asked, chosen, rejected, swapped in ((POSITIVE, kept, told, False), (NEGATIVE, told, kept, True)):
            prompt = [{"role": "system", "content": asked}, *own]
            answers = {"chosen": chosen, "rejected": rejected, "swapped": swapped, "asked": asked}
            rows.append({"prompt": prompt, **answers, "dialogue": f"talk {at}"})
    return rows
