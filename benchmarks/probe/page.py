"""The page of `benchmarks.probe`, from its outcomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from lec_guard.testing import PATHS

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
RESULTS = HERE / "results.json"

_TOP = """# What reaches the model, the tools and the caller

A marked attack on every path of an application, by every method of LangChain's runnables, and what becomes of it
([what the words mean](../../docs/probe.md)). {versions}, detector `{detector}`:

    python -m benchmarks.probe

Everything on this page is written by that command. All agents are the same one (tools, a retriever, a sub-agent, a
middleware that summarises), and all get the same attack, which the guard's policy blocks at every stage and
`PIIMiddleware` is given a regular expression for: so this is about what a guard gets to see, and when, and not about
how well it detects. Each path is first run with a harmless text; where that does not arrive, nothing can be told
(`unreached`). Of a summary, in which the attack stands among other words, that policy may say less (`judged`). Our
targets take system messages for a caller's (`system_messages="judged"`); a guard that is not told so takes them for the
operator's own, and does not judge them.

What leaks by `astream_events` in `pipe` is LangChain's own telling of the model, which no step behind it can hold back:
use `guard.protect(model)`. `protected_agent` guards what goes into an agent and what comes out; for its tools use
`GuardMiddleware`.

Of PIIMiddleware it has to be said that it was made for personal data; it stands here because it is what LangChain ships
for texts that must not pass.
"""

_ORDER = ("leaked", "unreached", "judged", "blocked")


def write_page(report: dict[str, Any]) -> None:
    """Write the page.

    Args:
        report: What `benchmarks.probe` found, as JSON gives it back.
    """
    PAGE.write_text(page(report), encoding="utf-8")


def page(report: dict[str, Any]) -> str:
    """The whole page.

    Args:
        report: See `write_page`.

    Returns:
        Markdown.
    """
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts = [_TOP.format(versions=versions, detector=report["detector"]), _summary(report["targets"])]
    parts += [_target(name, own) for name, own in report["targets"].items()]
    return "\n".join(parts)


def _summary(targets: dict[str, Any]) -> str:
    """Of each path and target the worst outcome, and by how many methods."""
    rows = [[path, *(_worst(own["results"].get(path)) for own in targets.values())] for path in PATHS]
    return "## All of them\n\nThe worst outcome of each path, and by how many methods of all.\n\n" + table(
        ["path", *(f"`{name}`" for name in targets)], rows, figures=False
    )


def _worst(found: list[dict[str, Any]] | None) -> str:
    if found is None:
        return "has none"
    by = {outcome: sum(len(one["methods"]) for one in found if one["outcome"] == outcome) for outcome in _ORDER}
    worst = next(outcome for outcome in _ORDER if by[outcome])
    total = sum(by.values())
    return worst if by[worst] == total else f"{worst} ({by[worst]} of {total})"


def _target(name: str, own: dict[str, Any]) -> str:
    rows = [
        [path if at == 0 else "", one["outcome"], one["why"], _methods(one["methods"], found)]
        for path, found in own["results"].items()
        for at, one in enumerate(found)
    ]
    return f"## {name}\n\n{own['what']}\n\n" + table(["path", "outcome", "why", "by"], rows, figures=False)


def _methods(methods: list[str], found: list[dict[str, Any]]) -> str:
    return "all methods" if len(found) == 1 else ", ".join(f"`{method}`" for method in methods)


if __name__ == "__main__":
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))
