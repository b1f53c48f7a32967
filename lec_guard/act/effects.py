"""What an operator gives a guard so that it can act on verdicts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lec_guard.act.base import Escalator, Rewriter
from lec_guard.errors import UnsupportedValueError

KEY_VARIABLE = "LEC_GUARD_KEY"
"""The environment variable that holds the key where none is given."""

_SHORTEST = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What a guard needs besides its policies to rewrite texts and to ask somebody.

    Attributes:
        key: At least 32 secret bytes, for hashes of texts, marks of quarantined texts and tokens. Processes that serve
            the same users, and a process before and after a restart, must have the same one to know each other's marks
            and decisions. None takes it from the environment variable LEC_GUARD_KEY; where that is missing too, a key
            is drawn for this guard alone, and a policy with a review queue is an error.
        models: Name -> chat model, for `regenerate` and `second_opinion`; policies that name none mean `default`. Where
            a `regenerate` has `guidance`, its model needs a method `guided` (`lec_guard.act.model.Guidable`).
        rewriters: Name -> rewriter, for `kind: registered`.
        escalators: Name -> escalator, for `kind: registered`.
        interrupt: What `kind: interrupt` asks; integrations bring it.
        queue: URL of the database (in SQLAlchemy's form) of review queues for which a policy names none; None for a
            SQLite file of this user's.
        ask: Whether anybody is asked: people, services, chat models, the application's own rewriters. Without, what
            would have to be asked about is held back, and policies may name what is not registered.

    Raises:
        UnsupportedValueError: If the key is too short.
    """

    key: bytes | None = field(default=None, repr=False)
    models: Mapping[str, Any] = field(default_factory=dict)
    rewriters: Mapping[str, Rewriter] = field(default_factory=dict)
    escalators: Mapping[str, Escalator] = field(default_factory=dict)
    interrupt: Escalator | None = None
    queue: str | None = field(default=None, repr=False)
    ask: bool = True

    def __post_init__(self) -> None:
        """Take the key from the environment, and refuse a short one."""
        if self.key is None and (given := os.environ.get(KEY_VARIABLE)):
            object.__setattr__(self, "key", given.encode())
        if self.key is not None and len(self.key) < _SHORTEST:
            raise UnsupportedValueError(
                f"the key has {len(self.key)} bytes; give {_SHORTEST} or more, for example of secrets.token_hex(32)"
            )
