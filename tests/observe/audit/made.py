"""Audit logs to spoil."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lec_guard import Event, VerdictEvent
from lec_guard.observe.audit import AuditLog
from lec_guard.observe.audit.keys import Key
from lec_guard.observe.audit.lines import canonical, parse, seal
from tests.observe.made import judged

KEY = b"a key of the operator, 32 bytes."
OTHER = b"a key of an attacker, 32 bytes.."
ONE: Event = VerdictEvent(verdict=judged())


def write(path: Path, events: int, **options: object) -> Path:
    """A log with so many events, closed."""
    log = AuditLog(path, KEY, **options)
    for number in range(events):
        log.emit(VerdictEvent(verdict=judged(tenant=f"t{number}")))
    log.close()
    return path


def abandon(log: AuditLog) -> None:
    """What a process that is killed leaves: nothing is forced to disk, closed or told."""
    log._forget()


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def resealed(
    content: list[bytes], key: bytes, key_id: str | None = None, change: Callable[[dict], object] = lambda fields: None
) -> list[bytes]:
    """What somebody makes of a file who has another key; `key_id` is what they claim, `change` what they do besides."""
    signer, made, before = Key(key), [], None
    for raw in content:
        line = parse(raw[:-1])
        assert line is not None
        fields = dict(line.fields)
        if fields["kind"] == "open":
            fields["key"] = key_id or signer.id
            before = fields["before"]
        change(fields)
        assert before is not None
        sealed, before = seal(signer, before, canonical(fields))
        made.append(sealed)
    return made
