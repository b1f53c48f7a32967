"""Who is signed in: random ids, kept in this process, and gone with it."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lec_guard.serve.reviewers import Reviewer


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Somebody who is signed in.

    Attributes:
        id: What the browser shows; a secret.
        csrf: What every form has to send; another secret.
        reviewer: Who it is.
        began: When they signed in, on the sessions' clock.
    """

    id: str = field(repr=False)
    csrf: str = field(repr=False)
    reviewer: Reviewer
    began: float


@dataclass(slots=True)
class _Kept:
    session: Session
    last: float


class Sessions:
    """The sessions of one process. All methods may be called from any thread.

    Args:
        idle_s: Seconds without a request after which a session ends.
        longest_s: Seconds after which it ends in any case.
        most: How many are kept; one more ends the one that was idle for longest.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        *,
        idle_s: float = 30 * 60,
        longest_s: float = 10 * 3600,
        most: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._idle_s = idle_s
        self._longest_s = longest_s
        self._most = most
        self._clock = clock
        # By hash: how long a look-up takes says nothing of any id. The one used longest ago stands first.
        self._kept: dict[bytes, _Kept] = {}
        self._lock = threading.Lock()

    def begin(self, reviewer: Reviewer) -> Session:
        """Sign somebody in, under an id that nobody has seen.

        Args:
            reviewer: Who.

        Returns:
            Their session.
        """
        now = self._clock()
        session = Session(id=secrets.token_urlsafe(32), csrf=secrets.token_urlsafe(32), reviewer=reviewer, began=now)
        with self._lock:
            while len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            self._kept[_hash(session.id)] = _Kept(session, now)
        return session

    def find(self, given: str) -> Session | None:
        """The session that a browser shows, which is used by that.

        Args:
            given: What the browser sent as an id.

        Returns:
            The session; None if there is none, or no more.
        """
        now, key = self._clock(), _hash(given)
        with self._lock:
            kept = self._kept.pop(key, None)
            if kept is None or now - kept.last > self._idle_s or now - kept.session.began > self._longest_s:
                return None
            kept.last = now
            self._kept[key] = kept
            return kept.session

    def end(self, given: str) -> None:
        """Sign out.

        Args:
            given: What the browser sent as an id.
        """
        with self._lock:
            self._kept.pop(_hash(given), None)


def _hash(given: str) -> bytes:
    return hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
