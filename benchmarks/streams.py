"""What judging a stream while it comes costs: against judging the whole text once, with the embedded detector.

    python -m benchmarks.streams [--tokens N] [--rounds N] [--out FILE]

The stream comes in chunks of four characters, about a token each, through `Guard.feed` and `Guard.finish`; the whole
text goes through `Guard.apply`. Both ways take turns in one process, so that what else the machine does hits both, and
every round has a new text. Beside the time it counts the windows that the model reads, and how many characters have
come when the first go on: of a model that writes so many tokens a second, that is how long its reader waits.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from lec_guard import Guard, LayerDetector, Step
from lec_guard.detect.windows import Window

HOLD_BACK = 64
POLICY = f"""
hold_back: {HOLD_BACK}
rules: [{{name: unsafe, stages: [output], head: safety, threshold: 1.0, action: block}}]
"""
SUBJECTS = ("The committee", "Our supplier", "A visitor from Leeds", "The older report", "Her colleague", "The choir")
VERBS = ("approved the budget for", "sent photographs of", "measured the temperature of", "lost the keys to")
OBJECTS = ("the town hall", "a railway bridge", "the old greenhouse", "the annual fair", "the apple orchard")
ENDS = ("last Tuesday.", "before the rain began.", "because the lease had ended, as everybody had known.", "at noon.")
CHUNK = 4


def prose(detector: LayerDetector, tokens: int, numbers: random.Random) -> str:
    """Sentences of so many tokens together, or a few more."""
    parts: list[str] = []
    left = tokens
    while left > 0:
        sentence = " ".join(numbers.choice(some) for some in (SUBJECTS, VERBS, OBJECTS, ENDS))
        parts.append(f"{numbers.randrange(1000)}: {sentence}")
        left -= len(detector._extractor.windower.ids(parts[-1]))
    return " ".join(parts)


class Counted:
    """Counts the windows that a detector's model reads."""

    def __init__(self, detector: LayerDetector) -> None:
        self.windows = 0
        extractor = detector._extractor
        features = extractor.features

        def counting(windows: Sequence[Window]) -> np.ndarray:
            self.windows += len(windows)
            return features(windows)

        extractor.features = counting  # type: ignore[method-assign] # counted from outside

    def taken(self) -> int:
        """How many since it was last asked."""
        taken, self.windows = self.windows, 0
        return taken


def whole(guard: Guard, text: str) -> None:
    """Judge a text once."""
    guard.apply(Step(stage="output", text=text))


def streamed(guard: Guard, text: str) -> int:
    """Judge a text while it comes; returns how many characters had come when the first went on."""
    growing, first = guard.begin(Step(stage="output", text="")), 0
    for at in range(0, len(text), CHUNK):
        if guard.feed(growing, text[at : at + CHUNK]).passed and not first:
            first = at + CHUNK
    guard.finish(growing, text)
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=10_000, help="of each text")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    args = parser.parse_args()

    detector = LayerDetector.load()
    counted = Counted(detector)
    numbers = random.Random(0)  # noqa: S311 - repeatable
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "default.yaml").write_text(POLICY, encoding="utf-8")
        guard = Guard.from_policies(folder, detector=detector)
    streamed(guard, prose(detector, 300, numbers))  # Warms up.
    ratios: list[float] = []
    took: dict[str, list[float]] = {"whole": [], "streamed": []}
    read: dict[str, list[int]] = {"whole": [], "streamed": []}
    firsts: list[int] = []
    for at in range(args.rounds):
        text = prose(detector, args.tokens, numbers)
        for way in sorted(took, reverse=bool(at % 2)):
            counted.taken()
            began = time.perf_counter()
            if way == "whole":
                whole(guard, text)
            else:
                firsts.append(streamed(guard, text))
            took[way].append(time.perf_counter() - began)
            read[way].append(counted.taken())
        ratios.append(took["streamed"][-1] / took["whole"][-1])
    windows = sum(read["streamed"]) / sum(read["whole"])
    report = {
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "detector": detector.detector_id,
        "tokens": args.tokens,
        "hold_back": HOLD_BACK,
        "rounds": args.rounds,
        "median_ms": {way: 1000 * median(own) for way, own in took.items()},
        "ratio": {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "windows": {"ratio": windows, **{way: sum(own) for way, own in read.items()}},
        "characters_to_first": median(firsts),
    }
    print(f"{args.tokens:,} tokens, chunks of {CHUNK} characters, hold_back: {HOLD_BACK}, {args.rounds} rounds\n")
    for way, own in took.items():
        print(f"{way:10}{1000 * median(own):10.0f} ms{sum(read[way]):10,} windows read")
    print(f"\n{median(ratios):.2f}x the time ({min(ratios):.2f} to {max(ratios):.2f}), {windows:.3f}x the windows")
    print(f"the first characters go on when {median(firsts):.0f} have come")
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
