"""A guard for the tests of every framework: keywords that are blocked, asked about, softened, quarantined, redacted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lec_guard import Case, Effects, EscalationPending, Escalator, Guard, Reply, Step
from lec_guard.step import Scores
from tests.conftest import write_policies
from tests.integrations.agents import KEY, POLICY, WORDS, Detector, Soften
from tests.test_guard import Recorder

STAGES = "[input, output, tool_input, tool_output, retrieval, tool_definition]"
RULES = (
    POLICY.replace("boss: {kind: interrupt}", "boss: {kind: registered, name: boss}")
    .replace("[input, output, tool_input, tool_output]", STAGES)
    .replace("stages: [tool_output]", "stages: [input, tool_output, retrieval]")
    .replace("wrap: {kind: quarantine}", "wrap: {kind: quarantine}\n      hide: {kind: redact_pii, operator: token}")
    + """
      - {name: mail, stages: [input, retrieval], head: pii, threshold: 0.5, action: rewrite, rewrite: hide}
"""
)
"""attack is blocked, poison is asked about, darn becomes dear, click is quarantined, mail addresses become tokens."""

ACME = """
    extends: default
    message: Acme says no.
    rules:
      - {name: rude, stages: [input], head: safety, labels: [rude], threshold: 0.5, action: block}
"""


class Boss(Escalator):
    """Has yet to decide."""

    def ask(self, case: Case) -> Reply:
        raise EscalationPending(case.verdict, "t-1")


class Failing(Detector):
    """Breaks down at the word boom."""

    def score(self, steps: Sequence[Step], *, keys: Any = None) -> list[Scores]:
        if any("boom" in step.text for step in steps):
            raise RuntimeError("boom of a secret text")
        return super().score(steps, keys=keys)


class Guarded:
    """A guard with its detector and its events."""

    def __init__(self, folder: Path, files: Mapping[str, str] | None = None) -> None:
        self.policies = write_policies(
            folder / "policies", {"default.yaml": RULES, "tenants/acme.yaml": ACME, **(files or {})}
        )
        self.detector, self.recorder = Failing(WORDS), Recorder()
        self.guard = Guard.from_policies(
            self.policies,
            detector=self.detector,
            sinks=[self.recorder],
            effects=Effects(key=KEY, rewriters={"soften": Soften("dear")}, escalators={"boss": Boss()}),
        )

    @property
    def seen(self) -> list[tuple[str, str]]:
        """Stage and text of every step that was scored."""
        return [(step.stage, step.text) for step in self.detector.seen]
