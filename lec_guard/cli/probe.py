"""`lec-guard probe`: marked attacks on every path of an application, and what becomes of them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, cast

import rich.table
import rich.text
import typer

from lec_guard.cli.terminal import BLOCKED, FAILED, cell, console, fail, plain
from lec_guard.errors import UnsupportedValueError
from lec_guard.testing import ATTACK, METHODS, PATHS, PathResult
from lec_guard.testing import probe as run_probe

_COLOURS = {"blocked": "green", "judged": "yellow", "leaked": "red", "unreached": "magenta"}


def probe(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:FACTORY", help="What makes the application out of the probe's pieces.")
    ],
    *,
    watched: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="The guard's detector, a WatchedDetector: tells judged from leaked."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A path or a method to leave out; may be repeated.")
    ] = None,
    attack: Annotated[str, typer.Option(help="What the guard should stop, with {marker} in it.")] = ATTACK,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line instead of tables.")] = False,
) -> None:
    """Plant a marked attack on every path of an application, by every method, and tell what became of it.

    The module is looked for in the current folder first. FACTORY is called with a `lec_guard.testing.Rig` and gives
    the application.

    Exit code 0: nothing leaks; 3: something does, or a path could not be reached (leave out with --skip what your
    application has not; system messages are the operator's own, and don't count); 2: wrong usage; 1: the application
    could not be made.
    """
    left_out = skip or []
    for name in left_out:
        if name not in (*PATHS, *METHODS):
            fail(f"--skip {plain(name)}: no such path or method; use one of {', '.join((*PATHS, *METHODS))}")
    if "{marker}" not in attack:
        fail("--attack needs a {marker} by which it is known")
    factory = _named(target)
    if not callable(factory):
        fail(f"{plain(target)} is not callable")
    seeing = None if watched is None else _named(watched)
    if watched is not None and not hasattr(seeing, "seen"):
        fail(f"{plain(watched)} does not tell what it has seen; name a WatchedDetector that the guard has")
    try:
        results = run_probe(
            cast("Callable[[Any], Any]", factory),
            paths=[name for name in PATHS if name not in left_out],
            methods=[name for name in METHODS if name not in left_out],
            attack=attack,
            watched=seeing,
        )
    except UnsupportedValueError as error:
        fail(str(error), FAILED)
    except Exception as error:  # noqa: BLE001 - somebody's factory; its words are not ours to print
        fail(f"{plain(target)} raised {type(error).__name__}", FAILED)
    if as_json:
        for result in results:
            typer.echo(json.dumps({**asdict(result), "fails": result.fails}))
    else:
        _print(results)
    if any(result.fails for result in results):
        raise typer.Exit(BLOCKED)


def _named(name: str) -> Any:
    """What a `module:name` names."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        fail(f"{plain(name)} is not module:name")
    folder = ""
    if folder not in sys.path:
        # As `python -m` does: what is in the current folder can be named.
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        fail(f"{plain(name)} is not there: {plain(str(error))}")
    except Exception as error:  # noqa: BLE001 - whatever somebody's module does when it is imported
        fail(f"{plain(module)} can't be imported: {type(error).__name__}", FAILED)
    return found


def _print(results: Sequence[PathResult]) -> None:
    groups = list(dict.fromkeys(result.method.partition(":")[0] for result in results))
    table = rich.table.Table("path", *groups)
    for path in dict.fromkeys(result.path for result in results):
        own = [result for result in results if result.path == path]
        table.add_row(cell(path), *(_cell([one for one in own if _group(one) == group]) for group in groups))
    console().print(table)
    found = [result for result in results if result.fails]
    if not found:
        return
    whys = rich.table.Table("path", "outcome", "why", "methods")
    for path, outcome, why in dict.fromkeys((one.path, one.outcome, one.why) for one in found):
        methods = [one.method for one in found if (one.path, one.outcome, one.why) == (path, outcome, why)]
        whys.add_row(cell(path), _coloured(outcome), cell(why), cell(", ".join(methods)))
    console().print(whys)


def _group(result: PathResult) -> str:
    return result.method.partition(":")[0]


def _cell(results: Sequence[PathResult]) -> rich.text.Text:
    """The outcomes of one way to call, with the modes that each is of where there are several."""
    by: dict[str, list[str]] = {}
    for result in results:
        by.setdefault(result.outcome, []).append(result.method.partition(":")[2] or "default")
    if len(by) < 2:
        return _coloured(*by)
    return rich.text.Text("\n").join(
        _coloured(outcome).append(f": {', '.join(modes)}", style="default") for outcome, modes in by.items()
    )


def _coloured(outcome: str = "") -> rich.text.Text:
    return rich.text.Text(outcome, style=_COLOURS.get(outcome, ""), overflow="fold")
