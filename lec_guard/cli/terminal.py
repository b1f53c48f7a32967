"""What all commands share: exit codes, errors, and words that are harmless to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NoReturn

from lec_guard.errors import BundleError, LecGuardError, UnsupportedValueError
from lec_guard.step import STAGES, Action, Stage

try:
    import rich.console
    import rich.progress
    import rich.table
    import rich.text
    import typer
except ModuleNotFoundError as missing:  # pragma: no cover - the test runs this in an interpreter of its own
    sys.exit(f"the lec-guard command needs {missing.name}; run: pip install 'lec-guard[cli]'")

ALLOWED, FAILED, USAGE, BLOCKED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes."""

FROM_CHECKPOINT = "the same command with --resume goes on from its last checkpoint"
"""What is to be done after an interruption, where checkpoints were asked for."""


def fail(message: str, code: int = USAGE) -> NoReturn:
    """Tell what is wrong, and end.

    Args:
        message: What, where, and how to mend it.
        code: The exit code.

    Raises:
        Exit: Always.
    """
    typer.echo(f"lec-guard: {lines(message)}", err=True)
    raise typer.Exit(code)


def need(extra: str, *packages: str) -> None:
    """End at once where a package is missing that is needed only after minutes of work.

    Args:
        extra: The extra that has it.
        packages: What is needed.
    """
    for package in packages:
        if find_spec(package) is None:
            fail(f"this command needs {package}; run: pip install 'lec-guard[{extra}]'")


def console() -> rich.console.Console:
    """Where tables go; as wide as the terminal, or wide enough in a file.

    Returns:
        The console of the standard output.
    """
    return rich.console.Console(width=None if sys.stdout.isatty() else 160)


def plain(word: str) -> str:
    """A word from a file, harmless to a terminal: no control, bidi or other invisible characters.

    Args:
        word: Any text.

    Returns:
        The same with what can't be seen written out.
    """
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in word)


def lines(words: str) -> str:
    """Several lines, harmless to a terminal.

    Args:
        words: Any text.

    Returns:
        The same with what can't be seen written out, apart from ends of lines.
    """
    return "\n".join(plain(line) for line in words.split("\n"))


def cell(word: object) -> rich.text.Text:
    """What stands in a table, harmless and without markup.

    Args:
        word: A word, or several lines; None is nothing.

    Returns:
        The text.
    """
    return rich.text.Text("" if word is None else lines(str(word)), overflow="fold")


def action_cell(action: Action) -> rich.text.Text:
    """An action in a table, in its colour.

    Args:
        action: The action.

    Returns:
        The text.
    """
    colours: dict[Action, str] = {
        "allow": "green", "flag": "yellow", "rewrite": "magenta", "escalate": "cyan", "block": "red",
    }  # fmt: skip
    return rich.text.Text(action, style=colours[action])


def stage_of(word: str) -> Stage:
    """The stage that a word names, or an error that lists them.

    Args:
        word: What the user wrote.

    Returns:
        The stage.
    """
    found = [stage for stage in STAGES if stage == word]
    if not found:
        fail(f"unknown stage {word!r}; use one of {', '.join(STAGES)}")
    return found[0]


@contextmanager
def mistakes_told(interrupted: str = "the same command goes on from here") -> Iterator[None]:
    """End with words and an exit code where a run can't go on: what was asked is wrong, it failed, or it was stopped.

    Args:
        interrupted: What is to be done after an interruption.

    Yields:
        Nothing.
    """
    try:
        yield
    except (UnsupportedValueError, BundleError) as error:
        fail(str(error))
    except LecGuardError as error:
        fail(str(error), FAILED)
    except KeyboardInterrupt:
        fail(f"interrupted; {interrupted}", INTERRUPTED)


@contextmanager
def parts() -> Iterator[Callable[[str, float], None]]:
    """Progress bars on the standard error, one a part of the work; a line a part where no terminal is.

    Yields:
        What is told which part is done to which share.
    """
    terminal = rich.console.Console(stderr=True)
    columns = (rich.progress.TextColumn("{task.description}"), rich.progress.BarColumn())
    with rich.progress.Progress(
        *columns, rich.progress.TimeElapsedColumn(), console=terminal, disable=not terminal.is_terminal
    ) as bars:
        tasks: dict[str, rich.progress.TaskID] = {}

        def tell(part: str, share: float) -> None:
            if part not in tasks:
                tasks[part] = bars.add_task(part, total=1.0)
                if not terminal.is_terminal:
                    typer.echo(f"lec-guard: {part}", err=True)
            bars.update(tasks[part], completed=share)

        yield tell


def ask_to_go_on() -> None:
    """Ask whether an estimate is all right; where nobody can be asked that is an error, and a no is the end.

    Raises:
        typer.Exit: If nobody goes on.
    """
    if not asked_at_a_terminal():
        fail("nothing was asked yet: give --yes where nobody can be asked whether the estimate is all right")
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(0)


def asked_at_a_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()
