"""`lec-guard policy calibrate`: budgets from a tenant's own harmless traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.table
import rich.text
import typer

from lec_guard.cli.terminal import BLOCKED, FAILED, console, fail, parts, plain
from lec_guard.errors import BundleError, LecGuardError, PolicyError, UnsupportedValueError

if TYPE_CHECKING:
    from lec_guard.train.own_traffic import Recalibrated
    from lec_guard.train.tenant import TenantPolicy
    from lec_guard.train.traffic import Text, Traffic

_SHOWN = 80
"""Characters of a text that is shown."""

_SOURCES = 10
"""Sources that are named."""


def calibrate(
    traffic: Annotated[Path, typer.Argument(metavar="BENIGN.jsonl", help="Harmless texts of the tenant's.")],
    *,
    policies: Annotated[Path, typer.Option(help="Folder with policies, or one policy file.")],
    tenant: Annotated[str | None, typer.Option(help="Whose; else the policy of steps without a tenant.")] = None,
    detector: Annotated[Path | None, typer.Option(help="Folder of a bundle; else the embedded one.")] = None,
    canaries: Annotated[
        Path | None, typer.Option(metavar="ATTACKS.jsonl", help="Attacks of yours that must still be stopped.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=500, help="How many of the highest scores to show.")] = 20,
    show_text: Annotated[bool, typer.Option("--show-text", help="Show attacks that would be lost.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write; else one beside the tenant's policy.")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Write it: somebody has looked at the highest.")] = False,
) -> None:
    """Take the budgets (max_fpr) of a policy from its tenant's own traffic. No text leaves the machine or is kept.

    A line of BENIGN.jsonl has "text" and perhaps "stage", "context", "tool", "tenant", and "source": where it is
    from. All have to be harmless: look at the highest scores before you give --accept, for whoever writes into the
    traffic can move a threshold, though no further than a bound. Attacks that are stopped now must still be.

    Exit code 0: fine, and written with --accept; 3: attacks would be lost, nothing is written; 2: wrong usage,
    policy, bundle or texts, or too few of these; 1: the detector failed.
    """
    # Imported here, because no other command needs it.
    from lec_guard.detect.layer import LayerDetector
    from lec_guard.train.own_traffic import CANARIES, recalibrate
    from lec_guard.train.tenant import read_tenant, write_calibration
    from lec_guard.train.traffic import read_traffic

    try:
        texts = read_traffic(traffic, tenant=tenant)
        attacks = [*read_traffic(CANARIES).texts, *(read_traffic(canaries).texts if canaries else ())]
        if out is not None and out.suffix != ".json":
            fail(f"--out {out}: must end in .json")
        policy = read_tenant(policies, tenant, LayerDetector.load(detector))
        with parts() as progress:
            found = recalibrate(
                policy,
                texts.texts,
                attacks,
                top=top,
                progress=lambda what, done, total: progress(what, done / max(total, 1)),
            )
        _tell(policy, texts, found)
        _print(found)
        if found.lost:
            fail(_lost(found.lost, show_text=show_text), BLOCKED)
        file = out or policy.file
        if accept:
            write_calibration(found.calibration, file)
    except (UnsupportedValueError, PolicyError, BundleError) as error:
        fail(str(error))
    except LecGuardError as error:
        fail(str(error), FAILED)
    typer.echo(_end(policy, file, is_default=out is None, written=accept))


def _tell(policy: TenantPolicy, texts: Traffic, found: Recalibrated) -> None:
    """What became of rows that are not what they look like, and what nobody has proved."""
    for key, where in texts.ignored.items():
        _say(f"{where}: the field {plain(key)!r} is not read")
    if policy.stale is not None:
        _say(f"its calibration is not in force, so what the bundle knows is what counts now:\n{policy.stale}")
    counts = {
        "rows repeat another one, and count once in the thresholds": found.repeats,
        "rows could not be read, so that no threshold decides on them": found.unread,
        "rows are on the allow list for all rules, and say nothing of thresholds": found.allowed,
    }
    for what, count in counts.items():
        if count:
            _say(f"{count:,} of {len(texts.texts):,} {what}")
    for line in found.left_out:
        _say(f"stays as it is: {line}")
    sources = [(plain(name), rows) for name, rows in found.sources.items()]
    shown = ", ".join(f"{name} {rows / len(texts.texts):.0%}" for name, rows in sources[:_SOURCES])
    more = f", and {len(sources) - _SOURCES} more" if len(sources) > _SOURCES else ""
    alike = "; they count alike" if len(sources) > 1 else ", which alone decides; name others in a field 'source'"
    _say(f"rows by source: {shown}{more}{alike}")
    for stage in found.unproved:
        _say(
            f"of {stage.canaries} attacks at {stage.stage} the policy stops none as it is, so that none could be lost, "
            "which proves nothing: give attacks that it stops, with --canaries"
        )


def _say(words: str) -> None:
    typer.echo("lec-guard: " + "\n".join(plain(line) for line in words.splitlines()), err=True)


def _print(found: Recalibrated) -> None:
    terminal = console()
    terminal.print(_moves(found))
    terminal.print(_stages(found))
    for stage, head in dict.fromkeys((one.stage, one.head) for one in found.top):
        terminal.print(_top(found, stage, head))


def _moves(found: Recalibrated) -> rich.table.Table:
    columns = ("rule", "stage", "windows", "budget", "now", "by traffic alone", "then", "rows", "match now", "then")
    table = rich.table.Table(*columns, title="Thresholds", title_justify="left")
    for move in found.moves:
        tool = "" if move.tool is None else f" ({move.tool})"
        table.add_row(
            *_cells(
                f"{move.rule}{tool}",
                move.stage,
                f"{move.windows}+",
                f"{move.budget:.3g}",
                f"{move.before:.3f}",
                f"{move.alone:.3f}",
                f"{move.after:.3f}{' (bounded)' if move.is_bounded else ''}",
                f"{move.rows:,}",
                _share(move.matched_before, move.rows),
                _share(move.matched_after, move.rows),
            )
        )
    return table


def _stages(found: Recalibrated) -> rich.table.Table:
    columns = ("stage", "rows", "stopped now", "then", "attacks", "stopped now and then")
    table = rich.table.Table(*columns, title="What is stopped, by all rules together", title_justify="left")
    for stage in found.stages:
        table.add_row(
            *_cells(
                stage.stage,
                f"{stage.rows:,}",
                _share(stage.before, stage.rows),
                _share(stage.after, stage.rows),
                f"{stage.canaries}",
                f"{stage.canaries_before} and {stage.canaries_after}",
            )
        )
    return table


def _top(found: Recalibrated, stage: str, head: str) -> rich.table.Table:
    title = f"Highest scores of {head} at {stage}: is each of them harmless?"
    table = rich.table.Table("score", "where", "texts alike", "rows", "would pass", title=title, expand=True)
    table.title_justify = "left"
    # What is left of the width, so that a long text squeezes nothing else.
    table.add_column("the part of it that scores", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in found.top:
        if (one.stage, one.head) == (stage, head):
            newly = f" ({one.newly} stopped now)" if one.newly else ""
            passes = f"{one.passes}{newly}"
            table.add_row(*_cells(f"{one.score:.3f}", one.where, f"{one.texts}", f"{one.rows}", passes, one.text))
    return table


def _cells(*words: str) -> list[rich.text.Text]:
    return [rich.text.Text(plain(word)) for word in words]


def _share(part: int, of: int) -> str:
    return f"{part:,} ({part / of:.2%})" if of else "-"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def _lost(lost: tuple[Text, ...], *, show_text: bool) -> str:
    lines = [
        plain(f"{one.id}: {_short(one.step.text)}" if show_text else f"{one.id} ({one.step.stage})") for one in lost
    ]
    return "\n".join(
        [
            f"{len(lost)} attacks that are stopped now would not be any more; nothing is written:",
            *lines,
            "look at the highest scores for texts that are not harmless, or give the rules another max_fpr",
        ]
    )


def _end(policy: TenantPolicy, file: Path, *, is_default: bool, written: bool) -> str:
    what = f"written: {file}" if written else f"nothing is written yet; with --accept: {file}"
    if is_default and policy.is_named:
        return f"{what}\nThe policy names it already."
    own, folder = file.resolve(), policy.folder.resolve()
    if not own.is_relative_to(folder):
        return f"{what}\nA policy can only name a file below {folder}: copy it there."
    return f"{what}\nAdd to {policy.live.policy.file}:\ncalibration: {own.relative_to(folder).as_posix()}"
