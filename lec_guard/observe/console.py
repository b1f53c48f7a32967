"""A line an event, for whoever develops an application."""

from __future__ import annotations

import secrets
import sys
import threading
from datetime import datetime
from typing import Any, TextIO

from lec_guard.observe.events import Event
from lec_guard.observe.plain import field
from lec_guard.observe.record import record

_TOLD = (
    "cause", "kind", "result", "section", "key", "resolution", "follows", "by", "failure",
    "policy", "version", "before", "reason", "reason_hmac",
)  # fmt: skip


class ConsoleSink:
    r"""Writes one line an event, harmless to a terminal whatever stands in it.

    Words from elsewhere (tenants, rules, reasons) are quoted where they hold more than the signs of names, and what
    can't be seen in them is written out, so that none of them moves the cursor, turns the line around or looks like
    two. There are no colours and no markup.

        12:01:02.345 block    input        injection  tenant=acme policy=acme@1a2b3c injection.injection=0.98@6:20 3.1ms
        12:01:02.346 effect rewrite  output       pii  tenant=acme result=rewritten again=allow rewrites=redact 0.4ms

    Args:
        stream: Where to write; None for the standard error as it is at that time.
        include_text: Whether a detector's own words on a failure are shown; they may quote what it read.
    """

    def __init__(self, stream: TextIO | None = None, *, include_text: bool = False) -> None:
        self._stream = stream
        self._include_text = include_text
        # The same failure has the same hash as long as the process runs; nobody else can make it.
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Write an event.

        Args:
            event: What happened.
        """
        found = record(event, key=self._key, include_text=self._include_text)
        words = [datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3], *_words(found)]
        stream = sys.stderr if self._stream is None else self._stream
        encoding = getattr(stream, "encoding", None) or "utf-8"
        line = (" ".join(words) + "\n").encode(encoding, "backslashreplace").decode(encoding)
        with self._lock:
            stream.write(line)
            stream.flush()


def _words(found: dict[str, Any]) -> list[str]:
    """The fields of a line: what happened first, then what it happened to."""
    kind, verdict = found["event"], found.get("verdict")
    told = [f"{name}={field(found[name], longest=300)}" for name in _TOLD if found.get(name)]
    if verdict is None:
        return [kind, *told]
    head = [f"{verdict['action']:<8}", f"{verdict['stage']:<12}", field(verdict["rule"] or "-")]
    if kind != "verdict":
        return [kind, *head, f"tenant={field(verdict['tenant'] or '-')}", *told, *_effect(found)]
    cause = [f"cause={verdict['cause']}"] if verdict["cause"] else []
    policy = f"policy={field(verdict['policy'])}@{field(verdict['policy_version'][:12])}"
    other = [f"{_name(one)}={one['action']}" for one in verdict["judgements"] if not _counts(one)]
    return [
        *head,
        f"tenant={field(verdict['tenant'] or '-')}",
        policy,
        *cause,
        *_scores(verdict),
        *other,
        f"{verdict['ms']:.1f}ms",
    ]


def _effect(found: dict[str, Any]) -> list[str]:
    """What was done to a text, and how long that took."""
    again = [f"again={found['again']['action']}"] if found.get("again") else []
    lists = [
        f"{name}={','.join(field(one) for one in found[name])}" for name in ("rewrites", "failed") if found.get(name)
    ]
    took = [f"{found['ms']:.1f}ms"] if found.get("ms") is not None else []
    return [*again, *lists, *took]


def _scores(verdict: dict[str, Any]) -> list[str]:
    """The highest label of each head, and where a matched rule's head found it."""
    words = []
    for head, labels in verdict["scores"].items():
        if not labels:
            continue
        label, score = max(labels.items(), key=lambda one: one[1])
        at = [f"@{span['start']}:{span['end']}" for span in verdict["spans"] if span["head"] == head]
        words.append(f"{field(head)}.{field(label)}={score:.2f}{','.join(at)}")
    return words


def _counts(judgement: dict[str, Any]) -> bool:
    return bool(judgement["mode"] == "enforce" and judgement["role"] != "candidate")


def _name(judgement: dict[str, Any]) -> str:
    """Why a policy was read that did not count."""
    return "candidate" if judgement["role"] == "candidate" else f"shadow:{judgement['role']}"
