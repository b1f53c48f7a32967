"""Templates -> answers. Whatever stands in a template's place is escaped, and nothing in it is hidden."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from lec_guard.serve import marks


def _finalize(value: object) -> object:
    """What a template shows: text only, without anything that moves or hides what stands beside it."""
    if isinstance(value, Markup | Undefined):
        return value
    return marks.plain("" if value is None else str(value))


def _verbatim(text: str) -> Markup:
    """A text for a field of a form, which has to hold what it really is."""
    return escape(marks.field(text))


def _duration(seconds: float) -> str:
    """Seconds in the two largest units that say something."""
    left = max(0, int(seconds))
    words: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or words or unit == "s":
            words.append(f"{count} {unit}")
        if len(words) == 2:
            break
    return " ".join(words[:1] if words[0].endswith(("min", "s")) else words)


def _moment(seconds: float) -> str:
    """A time on everybody's clock, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


_TEMPLATES = Environment(
    loader=PackageLoader("lec_guard.serve"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_finalize,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"verbatim": _verbatim, "duration": _duration, "moment": _moment}


def page(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Make an answer of a template.

    Args:
        template: Its name.
        status: The status of the answer.
        **values: What it shows.

    Returns:
        The answer.
    """
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values), status_code=status)
