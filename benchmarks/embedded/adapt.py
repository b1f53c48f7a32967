"""Tunes the layers of the embedded detector, and looks for harmless text that the tuned layers still take for attacks.

    python -m benchmarks.embedded.adapt tune --data DATA --tail TAIL --out FIRST
    python -m benchmarks.embedded.adapt mine --tail TAIL --bundle FIRST --out MINED
    python -m benchmarks.embedded.adapt tune --data DATA --tail TAIL --mined MINED --out SECOND

`TAIL` is what `benchmarks.embedded.tail` collected. Each round learns from a draw of it, of all kinds alike; `mine`
scores it but for the held-out families and keeps what scores highest, capped for each kind, and the next round learns
from that besides. `tune --onto FIRST` goes on from adapters that were tuned before; with another `--seed` it draws and
plants other texts. What `tune` writes is a bundle, with the heads that were tuned along. A run goes on where it was
interrupted (`--resume`), and stops after `--minutes`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.embedded.features import PACKAGE, WINDOW
from benchmarks.embedded.mixture import INGREDIENTS, examples, fewer, held_in, lessons
from benchmarks.embedded.sets import Example, read_examples
from benchmarks.embedded.tail import HELD as TAIL_HELD
from benchmarks.embedded.tail import drawn
from lec_guard.detect.bundle import (
    BundleSpec,
    FeatureBlock,
    Learned,
    PackageBase,
    hash_files,
    packaged_weights,
    read_bundle,
    write_bundle,
)
from lec_guard.detect.bundle import Windows as BundleWindows
from lec_guard.detect.extractor import Extractor
from lec_guard.detect.layer import LayerDetector
from lec_guard.step import Step
from lec_guard.train.config import Windows
from lec_guard.train.distil import DistilBlock, DistilConfig, Distilled, distil
from lec_guard.train.lessons import Lesson

BLOCKS = tuple(DistilBlock(layer=layer, pooling=pooling) for layer in (3, 4) for pooling in ("mean", "max"))
SHARE, MOST_OF_A_KIND = 0.02, 400
"""Of the tail, what is kept of each kind: the texts that score highest, and so many at most."""


def main() -> None:
    """Tune or mine."""
    arguments = argparse.ArgumentParser(description=__doc__)
    ways = arguments.add_subparsers(dest="way", required=True)
    tune = ways.add_parser("tune")
    tune.add_argument("--data", type=Path, required=True)
    tune.add_argument("--onto", type=Path, help="a bundle that `tune` wrote, whose adapters it goes on from")
    tune.add_argument("--seed", type=int, default=0, help="decides which texts are drawn and planted")
    tune.add_argument("--mined", type=Path, help="what `mine` kept")
    tune.add_argument("--minutes", type=float)
    tune.add_argument("--resume", action="store_true")
    tune.add_argument("--share", type=float, default=1.0, help="of all texts, to see what more data is worth")
    tune.add_argument("--most", type=int, default=500, help="public texts of each set and label")
    tune.add_argument("--plant", type=int, default=2_500, help="documents that something is planted in")
    tune.add_argument("--draw", type=int, default=400, help="texts of each kind of the tail")
    tune.add_argument("--without", nargs="*", default=[], choices=sorted(INGREDIENTS))
    tune.add_argument("--window", type=json.loads, default=asdict(WINDOW), help="how texts are cut")
    tune.add_argument("--tuning", type=json.loads, default={}, help="such as '{\"low_fpr\": 0.5}'")
    mine = ways.add_parser("mine")
    mine.add_argument("--bundle", type=Path, required=True)
    mine.add_argument("--most", type=int, default=10**9, help="texts of a kind that are scored")
    for one in (tune, mine):
        one.add_argument("--tail", type=Path, required=True)
        one.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.way == "tune":
        _tune(options)
    else:
        _mine(options)


def _tune(options: argparse.Namespace) -> None:
    learnt = drawn(read_examples(options.tail / "tail.jsonl"), options.draw, seed=options.seed)
    if options.mined is not None:
        there = {one.text for one in learnt}
        learnt += [one for one in read_examples(options.mined / "mined.jsonl") if one.text not in there]
    ingredients = INGREDIENTS - set(options.without)
    texts = examples(options.data, most=options.most, plant=options.plant, ingredients=ingredients, seed=options.seed)
    own = lessons([*texts, *(learnt if "tail" in ingredients else ())])
    own = fewer(own, options.share)
    tuning = {"tokens": 4096, "most_windows": 12, "epochs": 1, **options.tuning}
    config = DistilConfig(blocks=BLOCKS, window=Windows(**options.window), **tuning)
    held = held_in(own, TAIL_HELD)
    found = distil(
        own,
        packaged_weights(PACKAGE),
        config,
        onto=None if options.onto is None else read_bundle(options.onto).learned.adapters,
        held=held,
        work=options.out / "work",
        resume=options.resume,
        minutes=options.minutes,
        progress=_tell(),
    )
    keep(options.out, found, own, config)
    report = {
        "texts": {lesson.head.name: len(lesson.examples) for lesson in own},
        "harmful": {lesson.head.name: int(lesson.sides.sum()) for lesson in own},
        "held": sorted(held),
        "without": options.without,
        "arguments": " ".join(f"--{name} {vars(options)[name]}" for name in ("most", "plant", "draw", "share", "seed")),
        "onto": None if options.onto is None else json.loads((options.onto / "tuned.json").read_text(encoding="utf-8")),
        "config": config.model_dump(mode="json"),
        "steps": found.steps,
        "total": found.total,
        "losses": found.losses,
        "seconds": found.seconds,
    }
    (options.out / "tuned.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def keep(folder: Path, found: Distilled, own: Sequence[Lesson], config: DistilConfig) -> None:
    """Write what was tuned as a bundle.

    Args:
        folder: Where.
        found: The adapters, and the heads that were tuned along.
        own: What they learnt.
        config: How.
    """
    if found.adapters is None:
        raise AssertionError("adapters were asked for")
    base, adapters, window = packaged_weights(PACKAGE), found.adapters.half(), config.window
    extractor = Extractor.load(base, blocks=config.read, window=window.spec, adapters=adapters)
    spec = BundleSpec(
        name="tuned",
        base=PackageBase(kind="package", package=PACKAGE),
        files=hash_files(base),
        blocks=tuple(FeatureBlock(layer=block.layer, pooling=block.pooling) for block in config.read),
        window=BundleWindows(size=window.size, stride=window.stride, least=window.least),
        extractor_id=extractor.extractor_id,
        heads=tuple(lesson.head for lesson in own),
        heads_sha256="0" * 64,
    )
    write_bundle(folder, spec, Learned(found.heads, None, adapters=adapters))


def ranked(detector: LayerDetector, tail: Iterable[Example], most: int) -> dict[str, list[tuple[float, str]]]:
    """What heads of attacks say of harmless texts, of kinds that are not held out.

    Args:
        detector: The tuned layers with their heads.
        tail: Harmless texts.
        most: Texts of a kind that are scored.

    Returns:
        Kind -> score and text, the highest score first.
    """
    kinds: dict[str, list[str]] = {}
    for one in tail:
        if one.family not in TAIL_HELD and len(kinds.setdefault(one.family, [])) < most:
            kinds[one.family].append(one.text)
    found: dict[str, list[tuple[float, str]]] = {}
    for family, texts in sorted(kinds.items()):
        scores: list[float] = []
        for at in range(0, len(texts), 500):
            steps = [Step(stage="tool_output", text=text) for text in texts[at : at + 500]]
            # The heads' own scales differ; what both heads of attacks find odd is told by the higher one.
            scores += [
                max(said.by_head[name]["injection"] for name in ("injection", "indirect_injection"))
                for said in detector.score(steps)
            ]
        found[family] = sorted(zip(scores, texts, strict=True), reverse=True)
        print(f"{family}: {len(texts):,} texts scored", flush=True)
    return found


def _mine(options: argparse.Namespace) -> None:
    detector = LayerDetector.load(options.bundle, budget=None)
    counts = {}
    with (options.out / "mined.jsonl").open("w", encoding="utf-8") as out:
        for family, found in ranked(detector, read_examples(options.tail / "tail.jsonl"), options.most).items():
            highest = found[: min(MOST_OF_A_KIND, 1 + int(SHARE * len(found)))]
            counts[family] = {"texts": len(found), "kept": len(highest), "lowest": highest[-1][0]}
            for _, text in highest:
                out.write(json.dumps({"user": text, "label": "benign", "kind": "document", "family": family}) + "\n")
    (options.out / "mined.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")


def _tell() -> Callable[[str, float], None]:
    began, last = time.monotonic(), [0.0]

    def tell(what: str, share: float) -> None:
        if time.monotonic() - last[0] > 20:
            last[0] = time.monotonic()
            print(f"{what}: {share:.1%}, {last[0] - began:.0f} s", flush=True)

    return tell


if __name__ == "__main__":
    main()
