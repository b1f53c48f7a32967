"""A model that has a classifier of its own: fitted to one set of jailbreaks, as special models are.

    python -m benchmarks.paper.special --data DATA --to FOLDER

LEC's second claim is that heads on the middle layers of such a model beat the classifier that it comes with.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

from benchmarks.embedded.sets import read_examples
from lec_guard.detect.bundle import packaged_weights
from lec_guard.train.trainer import PACKAGE

SET = "jackhhao_jailbreak"
LABELS = ("benign", "injection")
_LENGTH, _BATCH, _EPOCHS, _RATE = 128, 16, 3, 5e-5


def fit(data: Path, to: Path) -> None:
    """Fine-tune the embedded detector's model, with a classification head, and save it.

    Args:
        data: The folder with `train/`.
        to: Where the model goes.
    """
    torch.manual_seed(0)
    base = packaged_weights(PACKAGE)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.enable_truncation(_LENGTH)
    tokenizer.enable_padding()
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=2,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        local_files_only=True,
        trust_remote_code=False,
    )
    rows = read_examples(data / "train" / f"{SET}.jsonl")
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE)
    began = time.monotonic()
    model.train()
    for epoch in range(_EPOCHS):
        order = torch.randperm(len(rows)).tolist()
        for at in range(0, len(order), _BATCH):
            some = [rows[i] for i in order[at : at + _BATCH]]
            given = tokenizer.encode_batch([row.text for row in some])
            ids = torch.tensor([one.ids for one in given])
            mask = torch.tensor([one.attention_mask for one in given])
            labels = torch.tensor([LABELS.index(row.label) for row in some])
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f} after {time.monotonic() - began:.0f} s", flush=True)
    model.save_pretrained(to)
    shutil.copy(base / "tokenizer.json", to / "tokenizer.json")
    (to / "fitted.json").write_text(json.dumps({"set": SET, "texts": len(rows)}) + "\n", encoding="utf-8")


def main() -> None:
    """Fine-tune and save."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--to", type=Path, required=True)
    options = arguments.parse_args()
    fit(options.data, options.to)


if __name__ == "__main__":
    main()
