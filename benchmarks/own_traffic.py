"""Measures what a tenant's own traffic makes of a budget, on texts of that traffic that the calibration has not seen.

    python -m benchmarks.own_traffic --data DATA

DATA holds `eval/` with one JSON-lines file a set. Each of a few harmless sets plays a tenant: every other text
calibrates, the others are measured. The sets were not fitted on. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.embedded.sets import read_examples
from lec_guard.detect.layer import LayerDetector
from lec_guard.policy.compile import STOPPING, Compiled
from lec_guard.policy.decide import decide
from lec_guard.step import Scores, Stage, Step
from lec_guard.train.own_traffic import CANARIES, Recalibrated, recalibrate
from lec_guard.train.tenant import read_tenant
from lec_guard.train.traffic import Text, read_traffic

POLICY = """
rules:
  - {name: injection, stages: [input, tool_output], head: injection, max_fpr: 0.02, action: block}
  - {name: unsafe, stages: [input], head: safety, labels: [unsafe], max_fpr: 0.02, action: block}
  - {name: indirect, stages: [tool_output], head: indirect_injection, max_fpr: 0.02, action: block}
"""
"""Two heads share the budget at each stage."""

HARMLESS = ("benign", "safe")


@dataclass(frozen=True)
class Tenant:
    """A made-up tenant: the sets that are its traffic, and where they pass."""

    name: str
    sets: tuple[str, ...]
    stage: Stage


TENANTS = (
    Tenant("chat assistant", ("toxicchat",), "input"),
    Tenant("developers' help desk", ("arena_hard", "cyberseceval_frr_benign"), "input"),
    Tenant("questions about people", ("bbq_identity_benign",), "input"),
    Tenant("questions in ten languages", ("xsafety_benign",), "input"),
    Tenant("logs that a tool reads", ("loghub_logs",), "tool_output"),
)


def traffic(data: Path, tenant: Tenant) -> list[Text]:
    """The harmless texts of a tenant."""
    found = []
    for name in tenant.sets:
        file = data / "eval" / f"{name}.jsonl"
        for at, example in enumerate(read_examples(file)):
            if example.label in HARMLESS:
                step = Step(stage=tenant.stage, text=example.text, context=example.context)
                found.append(Text(where=f"{file}:{at}", id=str(at), step=step, origin=name))
    return found


def steps(texts: list[Text]) -> list[Step]:
    """What a guard is asked."""
    return [text.step for text in texts]


def stopped(policy: Compiled, texts: list[Text], scores: list[Scores]) -> float:
    """The share of texts that a policy stops."""
    said = (decide(policy, text.step, one).action for text, one in zip(texts, scores, strict=True))
    return sum(action in STOPPING for action in said) / len(texts)


def row(tenant: Tenant, found: Recalibrated, before: float, after: float, held: int) -> str:
    """A line of the table."""
    moves = [f"{one.before:.2f} → {one.after:.2f}{'*' if one.is_bounded else ''}" for one in found.moves if one.rows]
    (stage,) = found.stages
    kept = f"{stage.canaries_before} → {stage.canaries_after} of {stage.canaries}, {len(found.lost)} lost"
    return f"| {tenant.name} | {stage.rows:,} | {held:,} | {before:.2%} | {after:.2%} | {kept} | {'; '.join(moves)} |"


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    data = arguments.parse_args().data
    detector, attacks = LayerDetector.load(), read_traffic(CANARIES).texts
    print("| traffic | calibrated on | measured on | stopped before | after | canaries stopped | thresholds |")
    print("|---|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "policy.yaml"
        file.write_text(POLICY, encoding="utf-8")
        policy = read_tenant(file, None, detector)
        for tenant in TENANTS:
            texts = traffic(data, tenant)
            found = recalibrate(policy, texts[::2], attacks)
            held = texts[1::2]
            scores = [one for at in range(0, len(held), 500) for one in detector.score(steps(held[at : at + 500]))]
            before, after = (stopped(one, held, scores) for one in (policy.live, found.policy))
            print(row(tenant, found, before, after, len(held)), flush=True)


if __name__ == "__main__":
    main()
