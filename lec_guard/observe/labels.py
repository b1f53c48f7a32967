"""Label values of metrics: never more than so many, whatever comes."""

from __future__ import annotations

import threading
from collections.abc import Collection

from lec_guard.observe.plain import encodable

OTHER = "other"
"""What all values are called for which there is no more room."""

_LONGEST = 100


class Labels:
    """The values of one label. Those that come first keep their names; all later ones are `other`.

    A metrics store keeps a series for every value for ever, and some values (the name of a tenant that no policy knows)
    are chosen by others.

    Args:
        room: How many values keep their names; or these values alone.
    """

    def __init__(self, room: int | Collection[str]) -> None:
        self._lock = threading.Lock()
        self._room = room if isinstance(room, int) else 0
        self._known: dict[str, str] = (
            {} if isinstance(room, int) else {name: encodable(name[:_LONGEST]) for name in room}
        )

    def of(self, value: str | None) -> str:
        """What a value is called.

        Args:
            value: The value; None for none.

        Returns:
            The value, harmless and of bounded length; empty for none; `other` where there is no more room.
        """
        if value is None:
            return ""
        known = self._known.get(value)
        if known is not None:
            return known
        with self._lock:
            if value not in self._known and self._room > 0:
                self._room -= 1
                self._known[value] = encodable(value[:_LONGEST])
            return self._known.get(value, OTHER)
