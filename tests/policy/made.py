"""Policies and heads that tests make up."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lec_guard.detect.heads import BenignScores
from lec_guard.policy.compile import Compiled, Heads, compile_policy
from lec_guard.policy.document import parse_document
from lec_guard.policy.resolve import Policy, Source, resolve
from lec_guard.policy.schema import PolicyFile, parse_policy
from lec_guard.step import STAGES, Scores, Stage
from lec_guard.train.calibrate import benign_scores

FILE = Path("policies/mine.yaml")

LABELS = {"injection": ("injection",), "safety": ("unsafe", "rude"), "topic": ("off",)}


def parsed(text: str, file: Path = FILE) -> PolicyFile:
    """What a text says."""
    return parse_policy(parse_document(file, textwrap.dedent(text).encode()))


def source(text: str, file: Path = FILE) -> Source:
    """A policy file that was read from a text."""
    document = parse_document(file, textwrap.dedent(text).encode())
    return Source(file.stem, parse_policy(document), document, file.parent)


def resolved(text: str, *parents: str, hosts: Sequence[str] = (), folder: Path = FILE.parent) -> Policy:
    """A policy, laid over those that it extends, the nearest first."""
    files = [folder / "mine.yaml", *(folder / f"parent{at}.yaml" for at in range(len(parents)))]
    return resolve("mine", [source(one, file) for one, file in zip((text, *parents), files, strict=True)], hosts)


def heads(benign: Mapping[str, Sequence[BenignScores]] | None = None, **more: object) -> Heads:
    """What a detector gives."""
    return Heads(**{"detector_id": "made@0", "labels": LABELS, "benign": benign or {}, **more})


def compiled(text: str, given: Heads | None = None, parents: Sequence[str] = ()) -> Compiled:
    """A policy that is ready to decide."""
    return compile_policy(resolved(text, *parents), given or heads())


def rule(name: str = "r", **changes: object) -> str:
    """A line of `rules:`, as flow YAML; a key that is None is left out."""
    keys = {"name": name, "stages": "[input]", "head": "injection", "threshold": 0.5, "action": "block", **changes}
    return f"  - {{{', '.join(f'{key}: {value}' for key, value in keys.items() if value is not None)}}}\n"


def rules(*lines: str) -> str:
    """`rules:` with these lines."""
    return "rules:\n" + "".join(lines)


def scores(unread: str | None = None, over_budget: bool = False, windows: int = 1, **by_head: object) -> Scores:
    """Scores; a number stands for the head's first label."""
    return Scores(
        by_head={
            head: own if isinstance(own, dict) else {LABELS[head][0]: float(own)}  # type: ignore[arg-type]
            for head, own in by_head.items()
        },
        unread=unread,
        over_budget=over_budget,
        windows=windows,
        detector_id="made@0",
        backend="none",
    )


def kept(
    sample: np.ndarray, windows: np.ndarray | None = None, stages: Sequence[Stage] | np.ndarray | None = None
) -> tuple[BenignScores, ...]:
    """What a head keeps of a sample of harmless texts of one family."""
    n = len(sample)
    return benign_scores(
        sample.astype(np.float32),
        np.ones(n, int) if windows is None else windows,
        np.full(n, "family"),
        np.full(n, STAGES[0]) if stages is None else np.asarray(stages),
    )


def bell(n: int, seed: int = 0) -> np.ndarray:
    """Scores of harmless texts, none of which is like another."""
    return (1 / (1 + np.exp(-np.random.default_rng(seed).normal(-3, 1.5, n)))).astype(np.float32)
