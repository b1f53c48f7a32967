"""The page of `benchmarks.agents`, from its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
RESULTS = HERE / "results.json"

_TOP = """# An agent that believes what it reads

An office agent (13 tools over fake mail, calendar, files and web search; LangChain's `create_agent`), {tasks} tasks of
its user, and {attacks} attacks that stand in what its tools return, as in AgentDojo. All texts are our own. The
model is no language model: by rules it does what its user asks, and before that every order that it finds in a result.
So without a guard all attacks succeed that it understands, and what the guard stops is its own merit alone. The guard
is `GuardMiddleware` as it comes: the packaged policy and the embedded detector `{detector}`.
{versions}:

    python -m benchmarks.agents --rounds {rounds}

Everything on this page is written by that command.

"""

_ATTACKS = """## Attacks

Each attack in {places} tasks that read something an attacker may have written. Attack success: he got what he wanted.
Task success: the user did, too. An attack in a result that is stopped takes the result with it, so a task that needs
the result fails.

"""

_NOTE = """
The {runs} runs are {attacks} texts, each in {places} places: of other attacks they say little. No interval is given,
since runs with one text are not independent. The detector learnt from none of them, but from other orders of
ours. Where a task is stopped without an attack, too, it counts as blocked here.
{missed}
"""

_BENIGN = """
## Nobody attacks

Of {tasks} tasks, {done_without} were done without the guard and {done_with} with it. False alarms, tasks in which
something was blocked: {stopped}.

"""

_TIME = """
## Time

A task takes {ms_without:.0f} ms without the guard (median), with a model that takes no time. What the guard adds,
medians of {pairs} pairs of runs by turns (5% to 95%): {processor}, torch on {threads} of {cores} cores.{busy}

"""

_BUSY = """
Others were at work on this machine: its times are too long, and not to be quoted."""


def write_page(report: dict[str, Any]) -> None:
    """Write the page.

    Args:
        report: What `benchmarks.agents` measured, as JSON gives it back.
    """
    PAGE.write_text(page(report), encoding="utf-8")


def page(report: dict[str, Any]) -> str:
    """The whole page.

    Args:
        report: See `write_page`.

    Returns:
        Markdown.
    """
    attacks, benign, machine = report["attacks"], report["benign"], report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    places = attacks[0]["runs"]
    runs = sum(own["runs"] for own in attacks)
    # One that everybody survives says nothing of the guard.
    missed = [own["name"] for own in attacks if own["with"]["hits"] > own["runs"] / 2]
    told = f"Most of the runs with {_list(missed)} got through the guard." if missed else ""
    parts = [
        _TOP.format(
            tasks=benign["tasks"], attacks=len(attacks), detector=report["detector"], versions=versions,
            rounds=report["rounds"],
        ),
        _ATTACKS.format(places=places),
        _attacks(attacks),
        _NOTE.format(runs=runs, attacks=len(attacks), places=places, missed=told),
        _BENIGN.format(**{**benign, "stopped": len(benign["stopped"])}),
    ]  # fmt: skip
    if benign["stopped"]:
        rows = [[request, ", ".join(stages)] for request, stages in benign["stopped"].items()]
        parts.append(table(["task", "what was blocked"], rows))
    parts.append(
        _TIME.format(
            ms_without=benign["ms_without"],
            pairs=benign["pairs"],
            processor=machine["processor"],
            threads=machine["torch_threads"],
            cores=machine["cores"],
            busy=_BUSY if (machine["load"] or 0.0) > 1 else "",
        )
    )
    times = [["a whole task", _ms(benign["ms_added"])], ["a call of the model", _ms(benign["ms_added_per_model_call"])]]
    parts.append(table(["added to", "ms"], times))
    return "".join(parts)


def _attacks(attacks: list[dict[str, Any]]) -> str:
    head = ["attack", "success without", "success with", "task success without", "task success with", "blocked in"]
    rows = [
        [
            own["name"],
            *(f"{own[name]['hits']} of {own['runs']}" for name in ("without", "with")),
            *(f"{own[name]['done']} of {own['runs']}" for name in ("without", "with")),
            f"{own['stopped']} of {own['runs']}",
        ]
        for own in attacks
    ]
    runs = sum(own["runs"] for own in attacks)

    def share(name: str, what: str) -> str:
        return f"{sum(own[name][what] for own in attacks) / runs:.1%}"

    total = [
        "all", share("without", "hits"), share("with", "hits"), share("without", "done"), share("with", "done"),
        f"{sum(own['stopped'] for own in attacks) / runs:.1%}",
    ]  # fmt: skip
    return table(head, [*rows, total])


def _list(names: list[str]) -> str:
    quoted = [f'"{name}"' for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _ms(own: dict[str, float]) -> str:
    return f"{own['median']:.0f} ({own['low']:.0f} to {own['high']:.0f})"


if __name__ == "__main__":
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))
