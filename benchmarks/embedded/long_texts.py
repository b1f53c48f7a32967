"""Measures long texts: harmless ones of many lengths, and harmless ones that hide one sentence of attack.

    python -m benchmarks.embedded.long_texts --data DATA            # half an hour; --small: a few minutes

DATA holds `eval/`. Long texts are made of its harmless ones, put one after another; the sentences are our own. Judged
by the packaged policy as tool output. Writes `long.json` beside the bundle.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.embedded.sets import read_examples
from lec_guard import Guard, LayerDetector, Step
from lec_guard.detect.bundle import EMBEDDED
from tests.attacks import ATTACKS

SETS = ("loghub_logs", "bipia", "gsm8k", "xstest_response", "arena_hard")
"""Server logs; mail, tables and code; word problems; answers; and prompts, which are instructions by nature."""
TOKENS = (256, 1_000, 4_000, 16_000, 64_000)
SMALL_TOKENS = TOKENS[:4]
MOST, SMALL_MOST = 30, 12
"""Texts of a set and length, at most; of the longest there are as many as the sets have words for."""
PLACES = ("start", "middle", "end")
HIDDEN_IN = {4_000: len(ATTACKS), 100_000: 6}
SMALL_HIDDEN_IN = {4_000: len(ATTACKS) // 2, 30_000: 3}
"""Tokens of the document -> how many sentences are tried."""
CHARACTERS = 4
"""Characters of a token, about: lengths are made by it, and reported as the detector counts them."""


def harmless(data: Path, name: str) -> list[str]:
    """The harmless texts of a set, always in the same random order."""
    texts = [e.text for e in read_examples(data / "eval" / f"{name}.jsonl") if e.label in ("benign", "safe")]
    random.Random(name).shuffle(texts)  # noqa: S311 - repeatable
    return texts


def long_texts(texts: list[str], tokens: int, most: int = MOST) -> list[str]:
    """Texts of that length that share nothing."""
    made, own = [], ""
    for text in texts:
        own = f"{own}\n\n{text}" if own else text
        if len(own) >= tokens * CHARACTERS:
            made.append(own[: tokens * CHARACTERS])
            own = ""
    return made[:most]


def false_alarms(guard: Guard, data: Path, lengths: tuple[int, ...], most: int) -> list[dict[str, Any]]:
    """What the policy does with harmless texts, by set and length."""
    report = []
    for name in SETS:
        for tokens in lengths:
            texts = long_texts(harmless(data, name), tokens, most)
            actions = Counter(_action(guard, text) for text in texts)
            counts = {action: actions[action] for action in ("flag", "block")}
            report.append({"set": name, "tokens": tokens, "texts": len(texts), **counts})
            print(report[-1], flush=True)
    return report


def hidden(guard: Guard, data: Path, among: dict[int, int]) -> list[dict[str, Any]]:
    """What the policy does with a sentence of attack at three places of a harmless text."""
    pages = [text for name in SETS[:-1] for text in harmless(data, name)]
    random.Random(0).shuffle(pages)  # noqa: S311 - repeatable
    report = []
    for tokens, tried in among.items():
        document = "\n\n".join(pages)[: tokens * CHARACTERS]
        without = guard.check(Step(stage="tool_output", text=document))
        alone = [_action(guard, attack) for attack in ATTACKS[:tried]]
        actions = [{place: _action(guard, _at(document, a, place)) for place in PLACES} for a in ATTACKS[:tried]]
        report.append(
            {
                "tokens": tokens,
                "windows": without.windows,
                "sentences": tried,
                "without": without.action,
                "alone_blocked": alone.count("block"),
                "same_action_everywhere": sum(len(set(own.values())) == 1 for own in actions),
                **{f"blocked_at_{place}": sum(own[place] == "block" for own in actions) for place in PLACES},
                **{f"flagged_at_{place}": sum(own[place] == "flag" for own in actions) for place in PLACES},
            }
        )
        print(report[-1], flush=True)
    return report


def _action(guard: Guard, text: str) -> str:
    return guard.check(Step(stage="tool_output", text=text)).action


def _at(document: str, sentence: str, place: str) -> str:
    half = document.index(" ", len(document) // 2)
    match place:
        case "start":
            return f"{sentence}\n\n{document}"
        case "middle":
            return f"{document[:half]}\n\n{sentence}\n\n{document[half:]}"
        case _:
            return f"{document}\n\n{sentence}"


def main() -> None:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--bundle", type=Path, default=EMBEDDED)
    arguments.add_argument("--small", action="store_true", help="shorter and fewer texts")
    options = arguments.parse_args()
    lengths, most, among = (SMALL_TOKENS, SMALL_MOST, SMALL_HIDDEN_IN) if options.small else (TOKENS, MOST, HIDDEN_IN)
    detector = LayerDetector.load(options.bundle, budget=None)
    guard = Guard.from_policies(detector=detector)
    report = {
        "detector_id": detector.detector_id,
        "false_alarms": false_alarms(guard, options.data, lengths, most),
        "hidden": hidden(guard, options.data, among),
    }
    (options.bundle / "long.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
