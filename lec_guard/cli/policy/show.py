"""`lec-guard policy show`: a policy with everything that it inherits, and where each part of it was said."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import rich.table
import typer
from pydantic import BaseModel

from lec_guard.cli.policy.options import HERE, AsJson, Bundle, Folder, heads, told
from lec_guard.cli.terminal import action_cell, cell, console, fail
from lec_guard.policy.budget import Bar
from lec_guard.policy.compile import Compiled, Threshold
from lec_guard.policy.folder import BUILTIN, BUILTIN_NAME
from lec_guard.policy.guidance import ORIGINS, bounded, raised
from lec_guard.policy.rates import rate_of, stopped
from lec_guard.policy.resolve import Policy
from lec_guard.policy.schema import Rule
from lec_guard.policy.store import InForce, PolicyStore
from lec_guard.step import STAGES

_UNSAID = "not said"
"""Where a value is from that no file gives."""

_Record = dict[str, Any]


def show_policy(
    name: Annotated[str, typer.Argument(metavar="TENANT", help="A tenant, TENANT/NAME, or a shared policy.")],
    folder: Folder = HERE,
    *,
    detector: Bundle = None,
    steps: Annotated[
        list[int] | None, typer.Option(help="Steps of a conversation; may be given again; else 10, 50 and 200.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a policy with everything that it inherits, and where each value was said.

    Thresholds are those that hold with this detector, by length of the text; the share of harmless steps that reach
    them is as measured on families of texts that the head had not seen: on average, and in the worst family.
    """
    lengths = steps or [10, 50, 200]
    if min(lengths) < 1:
        fail(f"--steps must be at least 1, not {min(lengths)}")
    with told():
        policies = PolicyStore(folder, heads(detector)).named(name)
    record = _record(policies, lengths)
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    terminal = console()
    for table in _tables(_shortened(record, folder), lengths):
        terminal.print(table)


def _record(policies: InForce, lengths: Sequence[int]) -> _Record:
    """Everything that is shown, as plain data."""
    live, floor, candidate = policies.live, policies.floor, policies.candidate
    policy = live.policy
    return {
        "policy": policy.name,
        "version": policy.version,
        "file": str(policy.file),
        "description": policy.description,
        "detector_id": live.detector_id,
        "settings": _settings(policy),
        "guidance": _guidance(policies),
        "floor": None if floor is None else _reference(floor),
        "candidate": None if candidate is None else _reference(candidate),
        "thresholds": [_threshold(live, one) for one in live.thresholds],
        "out_of_force": [
            {"rule": rule.name, "tool": tool, "from": policy.where(f"rules.{rule.name}")}
            for rule in policy.rules
            for tool in (None, *rule.tools)
            if (rule if tool is None else rule.for_tool(tool)).action == "allow"
        ],
        "stopped": [
            {**asdict(row), "conversations": {str(length): row.of(length) for length in lengths}}
            for row in stopped(policies)
        ],
        "fail": {
            stage: {**live.fail[stage].model_dump(), "from": policy.sources.get(f"fail.{stage}", _UNSAID)}
            for stage in STAGES
        },
        "allow": _sections(policy, "allow", {entry.name: entry for entry in policy.allow}),
        "rewrite": _sections(policy, "rewrite", policy.rewrite),
        "escalations": _sections(policy, "escalations", policy.escalations),
    }


def _settings(policy: Policy) -> _Record:
    """What is said once."""
    detector, calibration = policy.detector, policy.calibration
    values: _Record = {
        "mode": policy.mode,
        "locale": policy.locale,
        "message": dict(policy.message.texts),
        "hold_back": policy.hold_back,
        "detector": detector and f"{detector.id} in {detector.folder}{' (heads beside)' if detector.beside else ''}",
        "calibration": calibration and f"{calibration.texts} texts",
        "candidate": policy.candidate,
    }
    return {
        key: {"value": value, "from": policy.sources.get(key, _UNSAID)}
        for key, value in values.items()
        if value is not None
    }


def _guidance(policies: InForce) -> _Record:
    """What holds by origin, with the floor; where nobody says anything, nothing."""
    policy, floor = policies.live.policy, policies.floor
    record: _Record = {}
    for origin in ORIGINS:
        # What a policy that only watches says is shown too, as all else of it.
        own, least = bounded(policy.guidance, None, origin), policies.least_guidance(origin)
        rule = raised(own, least)
        if rule is not None:
            said = policy if floor is None or rule != least else floor.policy
            keys = (f"guidance.origins.{origin}", "guidance.coefficient")
            where = next((said.sources[key] for key in keys if key in said.sources), _UNSAID)
            record[origin] = {**rule.model_dump(), "from": where}
    return record


def _reference(compiled: Compiled) -> _Record:
    policy = compiled.policy
    return {
        "policy": policy.name,
        "version": policy.version,
        "mode": policy.mode,
        "file": str(policy.file),
        "detector_id": compiled.detector_id,
    }


def _threshold(compiled: Compiled, one: Threshold) -> _Record:
    rule, rate = _rule(compiled.policy, one), rate_of(one)
    return {
        "stage": one.stage,
        "rule": one.rule,
        "tool": one.tool,
        "action": one.action,
        "section": rule.rewrite or rule.escalation,
        "head": one.head,
        "labels": list(rule.labels or ()),
        "budget": one.budget,
        "share": one.share,
        "own": one.own,
        "bars": [asdict(bar) for bar in one.bars],
        "rate": None if rate is None else asdict(rate),
        "from": compiled.policy.where(f"rules.{one.rule}"),
    }


def _rule(policy: Policy, one: Threshold) -> Rule:
    """A rule as it is for the tools of a threshold."""
    rule = next(rule for rule in policy.rules if rule.name == one.rule)
    glob = next((glob for glob in rule.tools if glob in one.tools), None)
    return rule if glob is None else rule.for_tool(glob)


def _sections(policy: Policy, kind: str, entries: Any) -> _Record:
    def said(entry: BaseModel) -> _Record:
        return entry.model_dump(mode="json", exclude_none=True, exclude={"name"})

    return {name: {**said(entry), "from": policy.where(f"{kind}.{name}")} for name, entry in entries.items()}


def _shortened(record: Any, folder: Path) -> Any:
    """The same with places as they are called within the folder, and in the packaged policy."""
    if isinstance(record, dict):
        return {
            key: _place(value, folder) if key in ("from", "file") else _shortened(value, folder)
            for key, value in record.items()
        }
    return [_shortened(one, folder) for one in record] if isinstance(record, list) else record


def _place(where: str, folder: Path) -> str:
    return where.replace(str(BUILTIN), BUILTIN_NAME).removeprefix(f"{folder}{os.sep}")


def _tables(record: _Record, lengths: Sequence[int]) -> list[rich.table.Table]:
    tables = [_head(record), _rules(record), _rates(record, lengths), _fail(record)]
    if record["guidance"]:
        tables.append(_guided(record))
    return tables + [_named(kind, record[kind]) for kind in ("allow", "rewrite", "escalations") if record[kind]]


def _table(title: str, *columns: str) -> rich.table.Table:
    return rich.table.Table(*columns, title=title, title_justify="left")


def _head(record: _Record) -> rich.table.Table:
    table = _table(f"policy {record['policy']}, version {record['version']}", "", "", "from")
    table.add_row(cell("description"), cell(record["description"]), cell(record["file"]))
    for key, said in record["settings"].items():
        value = said["value"]
        shown = "\n".join(f"{name}: {text}" for name, text in value.items()) if isinstance(value, dict) else value
        table.add_row(cell(key), cell(shown), cell(said["from"]))
    for role in ("floor", "candidate"):
        other = record[role]
        if other is not None:
            told = f"{other['policy']}, version {other['version']}, {other['mode']}, reads {other['detector_id']}"
            table.add_row(cell(role), cell(told), cell(other["file"]))
        elif role == "floor":
            table.add_row(cell("floor"), cell("none"), cell(_UNSAID))
    table.add_row(cell("reads"), cell(record["detector_id"]), cell(""))
    return table


def _rules(record: _Record) -> rich.table.Table:
    table = _table(
        "rules; harmless texts that reach the threshold: on average, in the worst family, of how many texts (families)",
        "stage", "rule", "tools", "action", "reads", "from score (windows)", "budget", "harmless texts", "from",
    )  # fmt: skip
    stage = None
    for one in _worth_showing(record["thresholds"]):
        if stage not in (None, one["stage"]):
            table.add_section()
        rate, budget, section = one["rate"], one["budget"], one["section"]
        known = "not known" if rate is None else f"{rate['mean']:.2%}, worst {rate['worst']:.1%}"
        reads = one["head"] + (f": {', '.join(one['labels'])}" if one["labels"] else "")
        action = action_cell(one["action"])
        table.add_row(
            cell(one["stage"] if one["stage"] != stage else None),
            cell(one["rule"]),
            cell(one["tool"]),
            action.append(f"\n{section}") if section else action,
            cell(reads),
            cell(_cut(one["bars"])),
            cell(None if budget is None else f"{budget:g}\nhere {one['share']:.3g}{' own' if one['own'] else ''}"),
            cell(known if rate is None else f"{known}\n{rate['texts']:,} ({rate['families']})"),
            cell(one["from"]),
        )
        stage = one["stage"]
    table.add_section()
    for one in record["out_of_force"]:
        words = (None, one["rule"], one["tool"], "allow", None, "out of force", None, None, one["from"])
        table.add_row(*(cell(word) for word in words))
    return table


def _worth_showing(thresholds: Sequence[_Record]) -> Iterator[_Record]:
    """Those for some tools only where they differ from those for all others."""
    usual = {(one["stage"], one["rule"]): one for one in thresholds if one["tool"] is None}
    for one in thresholds:
        like = usual.get((one["stage"], one["rule"]), {})
        if one["tool"] is None or any(one[key] != like.get(key) for key in ("action", "section", "labels", "bars")):
            yield one


def _cut(bars: Sequence[_Record]) -> str:
    """Thresholds by the windows from which on they hold."""
    cut = [Bar(**bar) for bar in bars]
    if len({bar.threshold for bar in cut}) == 1:
        return f"{cut[0].threshold:.3f}"
    return "\n".join(f"{bar.threshold:.3f} ({bar.windows}+)" for bar in cut)


def _rates(record: _Record, lengths: Sequence[int]) -> rich.table.Table:
    table = _table(
        "harmless steps that all rules of a stage and the floor's stop, at most; conversations of n such steps",
        *(
            "stage",
            "tools",
            "steps",
            "worst families",
            *(f"n = {length}" for length in lengths),
            "rules of unknown rate",
        ),
    )
    for row in record["stopped"]:
        shares = [row["mean"], row["worst"], *row["conversations"].values()]
        shown = [f"{min(share, 1.0):.2%}" if row["mean"] else "not known" for share in shares]
        words = (row["stage"], row["tool"], *shown, ", ".join(row["unknown"]))
        table.add_row(*(cell(word) for word in words))
    return table


def _fail(record: _Record) -> rich.table.Table:
    keys = ("timeout", "error", "budget", "timeout_ms", "max_chars", "from")
    table = _table("what follows where a text was not judged", "stage", *keys)
    for stage, said in record["fail"].items():
        table.add_row(cell(stage), *(cell(said[key]) for key in keys))
    return table


def _guided(record: _Record) -> rich.table.Table:
    title = "guidance of local models, by who wrote the least trusted text"
    table = _table(title, "least trusted text of", "coefficient", "space", "from")
    for origin, said in record["guidance"].items():
        table.add_row(cell(origin), cell(f"{said['coefficient']:g}"), cell(said["space"]), cell(said["from"]))
    return table


def _named(kind: str, entries: _Record) -> rich.table.Table:
    table = _table(kind, "name", "says", "from")
    for name, said in entries.items():
        words = "\n".join(f"{key}: {_plain(value)}" for key, value in said.items() if key != "from" and value != [])
        table.add_row(cell(name), cell(words), cell(said["from"]))
    return table


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key}: {one}" for key, one in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
