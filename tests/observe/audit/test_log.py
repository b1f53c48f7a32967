"""An audit log is written whole, by one, and goes on after whatever ended the process."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from lec_guard import Guard, SinkError, Step
from lec_guard.observe.audit import AuditLog, verify
from lec_guard.observe.audit.keys import ZERO, Key
from lec_guard.observe.audit.lines import Head
from tests.conftest import ROOT
from tests.observe.audit.made import KEY, ONE, OTHER, abandon, lines, records, write
from tests.observe.made import EVENTS, HOSTILE, failed, resolved


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_every_event_is_a_line_of_json(path):
    with closing(AuditLog(path, KEY)) as log:
        for event in EVENTS:
            log.emit(event)
    found = records(path)
    assert [one["kind"] for one in found] == ["open", *["event"] * len(EVENTS), "checkpoint"]
    assert [one["seq"] for one in found] == list(range(1, len(EVENTS) + 3))
    assert [one["event"]["event"] for one in found[1:-1]] == [
        "verdict",
        "error",
        "bypass",
        "effect",
        "escalation_resolved",
        "policy_reloaded",
        "reload_refused",
    ]
    assert found[-1]["events"] == len(EVENTS)
    assert verify(path, KEY).ok


def test_a_guard_writes_what_it_decides_and_no_text(path, policies, keywords):
    log = AuditLog(path, KEY)
    guard = Guard.from_policies(policies, detector=keywords, sinks=[log])
    guard.check(Step(stage="input", text="an ATTACK with xyzzy", context="plugh"), "acme")
    guard.close()
    assert records(path)[1]["event"]["verdict"]["action"] == "block"
    content = path.read_bytes()
    assert b"xyzzy" not in content
    assert b"plugh" not in content
    with pytest.raises(SinkError, match="is closed"):
        log.emit(ONE)


def test_what_a_detector_said_is_written_only_where_asked(path, tmp_path):
    for file, options in ((path, {}), (tmp_path / "full.jsonl", {"include_text": True})):
        with closing(AuditLog(file, KEY, **options)) as log:
            log.emit(failed())
    assert b"xyzzy" not in path.read_bytes()
    assert b"xyzzy" in (tmp_path / "full.jsonl").read_bytes()


def test_who_answered_is_kept_as_it_was_told_and_is_harmless_in_the_file(path):
    with closing(AuditLog(path, KEY)) as log:
        log.emit(resolved(by=HOSTILE))
    assert records(path)[1]["event"]["by"] == HOSTILE
    line = lines(path)[1][:-1]
    assert line.isascii()
    assert line.decode("ascii").isprintable()
    assert verify(path, KEY).ok


def test_the_key_stands_in_no_file(path, tmp_path):
    write(path, 3)
    for file in tmp_path.iterdir():
        assert KEY not in file.read_bytes()
        assert KEY.hex().encode() not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_key_comes_from_the_environment(path, monkeypatch):
    monkeypatch.setenv("AUDIT_KEY", KEY.decode() + "\n")
    AuditLog(path, "AUDIT_KEY").close()
    assert verify(path, KEY).ok
    assert verify(path, "AUDIT_KEY").ok


def test_it_goes_on_where_it_ended(path):
    write(path, 3)
    with closing(AuditLog(path, KEY)) as log:
        log.emit(ONE)
    assert [one["kind"] for one in records(path)] == [
        "open", "event", "event", "event", "checkpoint", "resume", "event", "checkpoint",
    ]  # fmt: skip
    report = verify(path, KEY)
    assert report.ok
    assert (report.events, report.records, report.files) == (4, 8, 1)


def test_checkpoints_count_the_events(path):
    write(path, 25, checkpoint_every=10)
    assert [one["events"] for one in records(path) if one["kind"] == "checkpoint"] == [10, 20, 25]


def test_what_was_told_is_on_disk_after_a_checkpoint_and_not_before(path, monkeypatch):
    log = AuditLog(path, KEY, checkpoint_every=3)
    forced = []
    monkeypatch.setattr(os, "fsync", lambda fd: forced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    for count in (0, 0, 2):
        log.emit(ONE)
        assert len(forced) == count
    # The records first, then the head that says that they are there.
    assert forced == [str(path), f"{path}.head"]
    abandon(log)


def test_a_full_file_is_moved_and_the_next_one_goes_on(path, tmp_path):
    write(path, 40, rotate_bytes=8000)
    older = sorted(tmp_path.glob("audit.jsonl.0*"))
    assert [one.name for one in older[:2]] == ["audit.jsonl.000001", "audit.jsonl.000002"]
    assert all(8000 <= one.stat().st_size < 10_000 for one in older)
    for number, (one, two) in enumerate(zip(older, [*older[1:], path], strict=True), start=2):
        first = records(two)[0]
        assert (first["kind"], first["file"]) == ("open", number)
        assert first["before"] == records(one)[-1]["mac"]
    report = verify(path, KEY)
    assert report.ok
    assert (report.files, report.events) == (len(older) + 1, 40)


def test_it_goes_on_after_it_ended_between_two_files(path, tmp_path):
    write(path, 40, rotate_bytes=8000)
    count = len(list(tmp_path.glob("audit.jsonl.0*")))
    path.rename(tmp_path / f"audit.jsonl.{count + 1:06d}")
    write(path, 1)
    assert records(path)[0]["file"] == count + 2
    assert verify(path, KEY).ok


def test_it_goes_on_after_it_ended_before_the_first_record_of_a_file(path, tmp_path):
    write(path, 40, rotate_bytes=8000)
    count = len(list(tmp_path.glob("audit.jsonl.0*")))
    path.rename(tmp_path / f"audit.jsonl.{count + 1:06d}")
    path.write_bytes(b'{"before":')
    write(path, 1)
    assert records(path)[0]["set_aside"]["bytes"] == 10
    assert verify(path, KEY).ok


def test_it_begins_again_after_it_ended_before_the_first_record_of_all(path):
    key = Key(KEY)
    start = Head(log="0" * 16, file=1, seq=0, events=0, mac=ZERO, synced=0, key=key.id)
    path.with_name("audit.jsonl.head").write_bytes(start.sealed(key))
    path.write_bytes(b'{"before":')
    write(path, 1)
    assert [one["seq"] for one in records(path)] == [1, 2, 3]
    report = verify(path, KEY)
    assert report.ok
    assert (report.log, report.set_aside) == ("0" * 16, 1)


def test_a_new_key_begins_a_new_file_that_says_so(path, tmp_path):
    write(path, 3)
    with pytest.raises(SinkError, match="give the other one as old_key"):
        AuditLog(path, OTHER)
    with closing(AuditLog(path, OTHER, old_key=KEY)) as log:
        log.emit(ONE)
    first, last = records(tmp_path / "audit.jsonl.000001")[0], records(path)[0]
    assert (last["kind"], last["file"]) == ("open", 2)
    assert last["key"] != first["key"]
    assert last["before"] == records(tmp_path / "audit.jsonl.000001")[-1]["mac"]
    assert verify(path, OTHER, older_keys=[KEY]).ok
    assert verify(path, KEY, older_keys=[OTHER]).ok
    finding = verify(path, OTHER).finding
    assert finding is not None
    assert (finding.kind, finding.file) == ("rechained", "audit.jsonl.000001")
    # The old key is not needed any more to write.
    write_other = AuditLog(path, OTHER)
    write_other.close()
    assert verify(path, OTHER, older_keys=[KEY]).ok


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_line_without_end_is_set_aside_and_told(path, tmp_path, caplog, cut):
    log = AuditLog(path, KEY)
    log.emit(ONE)
    abandon(log)
    whole = path.read_bytes()
    half = lines(path)[-1][:-cut]
    with path.open("ab") as file:
        file.write(half)
    before = verify(path, KEY)
    assert before.finding is not None
    assert (before.finding.kind, before.finding.line) == ("truncated", 3)
    with closing(AuditLog(path, KEY)) as log:
        log.emit(ONE)
    assert caplog.records[0].levelno == logging.ERROR
    assert "has no end" in caplog.text
    assert (tmp_path / "audit.jsonl.cut-3").read_bytes() == half
    assert path.read_bytes().startswith(whole)
    told = records(path)[2]
    assert (told["kind"], told["set_aside"]) == ("resume", {"file": "audit.jsonl.cut-3", "bytes": len(half)})
    report = verify(path, KEY)
    assert report.ok
    assert report.set_aside == 1


def test_records_that_are_gone_from_the_end_are_told_for_ever(path, caplog):
    log = AuditLog(path, KEY, checkpoint_every=100)
    for _ in range(5):
        log.emit(ONE)
    abandon(log)
    path.write_bytes(b"".join(lines(path)[:-2]))
    with closing(AuditLog(path, KEY)) as log:
        log.emit(ONE)
    assert "records 5 to 6 were written and are gone" in caplog.text
    assert "lost power" in caplog.text
    told = records(path)[4]
    assert (told["kind"], told["seq"], told["events"]) == ("resume", 7, 5)
    assert told["lost"] == {"first": 5, "last": 6, "synced": 1}
    report = verify(path, KEY)
    assert report.finding is not None
    assert (report.finding.kind, report.finding.line, report.lost) == ("cut", 5, 2)
    # All that stands after the gap is read, and what is wrong there comes first.
    assert report.records == 7
    spoilt = lines(path)
    spoilt[5] = spoilt[5].replace(b'"acme"', b'"bcme"', 1)
    path.write_bytes(b"".join(spoilt))
    again = verify(path, KEY).finding
    assert again is not None
    assert (again.kind, again.line) == ("changed", 6)


def test_records_that_were_on_disk_can_not_be_lost_to_a_power_failure(path, caplog):
    write(path, 5)
    path.write_bytes(b"".join(lines(path)[:-2]))
    AuditLog(path, KEY).close()
    assert "somebody cut it, for those up to 7 were on disk" in caplog.text


def test_a_file_that_is_gone_is_told(path):
    write(path, 5)
    path.unlink()
    AuditLog(path, KEY).close()
    first = records(path)[0]
    assert (first["file"], first["lost"]["first"], first["lost"]["last"]) == (2, 1, 7)
    finding = verify(path, KEY).finding
    assert finding is not None
    assert finding.kind == "missing"


def spoil_a_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"t1"', b'"t9"'))


def spoil_the_head(path: Path) -> None:
    head = path.with_name("audit.jsonl.head")
    head.write_bytes(head.read_bytes().replace(b'"seq":', b'"seq":1'))


def remove_the_head(path: Path) -> None:
    path.with_name("audit.jsonl.head").unlink()


def take_another_log(path: Path) -> None:
    write(path.with_name("other.jsonl"), 9)
    path.with_name("other.jsonl").replace(path)


def put_back(path: Path) -> None:
    """Put the log back to an older state that was written on, but leave the head of what stood there."""
    head = path.with_name("audit.jsonl.head")
    old, old_head = path.read_bytes(), head.read_bytes()
    write(path, 3)
    newer = head.read_bytes()
    path.write_bytes(old)
    head.write_bytes(old_head)
    write(path, 9)
    head.write_bytes(newer)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (put_back, "is not of this log; move the log away"),
        (spoil_a_line, r"audit.jsonl:3: record 3 is not as it was written; move the log away"),
        (spoil_the_head, "somebody changed it; move the log away"),
        (remove_the_head, "is missing, so nobody can say how far the log went; move the log away"),
        (take_another_log, "is not of this log; move the log away"),
    ],
)
def test_nothing_is_added_to_a_log_that_somebody_changed(path, spoil, says):
    write(path, 5)
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(SinkError, match=says):
        AuditLog(path, KEY)
    assert path.read_bytes() == before
    # The lock is let go of.
    path.with_name("audit.jsonl.head").unlink(missing_ok=True)
    path.unlink()
    AuditLog(path, KEY).close()


def test_a_second_writer_is_told_of_the_first(path):
    with closing(AuditLog(path, KEY)) as log:
        with pytest.raises(SinkError, match=rf"audit.jsonl: another audit log writes to it \(process {os.getpid()}\)"):
            AuditLog(path, KEY)
        log.emit(ONE)
    AuditLog(path, KEY).close()
    assert verify(path, KEY).ok


def test_sixteen_threads_write_one_chain(path):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with closing(AuditLog(path, KEY, rotate_bytes=200_000)) as log, ThreadPoolExecutor(16) as pool:
            list(pool.map(log.emit, [ONE] * 1600))
    finally:
        sys.setswitchinterval(interval)
    report = verify(path, KEY)
    assert report.ok
    assert report.events == 1600
    assert report.files > 5


def emit_in_a_fork(log: AuditLog, answers: multiprocessing.SimpleQueue, go: multiprocessing.Event) -> None:
    try:
        log.emit(ONE)
    except SinkError as error:
        answers.put(str(error))
    log.close()
    answers.put("closed")
    go.wait(60)


def test_a_fork_can_not_write_and_does_not_hold_the_log(path):
    log = AuditLog(path, KEY)
    context = multiprocessing.get_context("fork")
    answers, go = context.SimpleQueue(), context.Event()
    child = context.Process(target=emit_in_a_fork, args=(log, answers, go), daemon=True)
    child.start()
    assert "can't be used in its fork" in answers.get()
    assert answers.get() == "closed"
    # The parent still has it.
    with pytest.raises(SinkError, match="another audit log writes"):
        AuditLog(path, KEY)
    log.emit(ONE)
    # The fork that lives on does not keep the next one from writing when the parent is gone.
    abandon(log)
    AuditLog(path, KEY).close()
    assert child.is_alive()
    go.set()
    child.join(60)
    assert child.exitcode == 0
    assert verify(path, KEY).ok


KILLED = """
    import os, sys
    sys.path.insert(0, {root!r})
    from lec_guard.observe.audit import AuditLog
    from tests.observe.audit.made import KEY, ONE
    log = AuditLog({path!r}, KEY, rotate_bytes=20000)
    while True:
        log.emit(ONE)
        os.write(1, b".")
"""


def test_a_killed_process_loses_nothing_that_it_told(path):
    code = textwrap.dedent(KILLED).format(root=str(ROOT), path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None
        told = len(child.stdout.read(200))
        child.send_signal(signal.SIGKILL)
        told += len(child.stdout.read())
    write(path, 1)
    report = verify(path, KEY)
    assert report.ok
    assert report.events in (told + 1, told + 2)


FULL = """
    import json, resource, signal, sys
    sys.path.insert(0, {root!r})
    from lec_guard import SinkError
    from lec_guard.observe.audit import AuditLog
    from tests.observe.audit.made import KEY, ONE
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = AuditLog({path!r}, KEY)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
    said = []
    for _ in range(20):
        try:
            log.emit(ONE)
            said.append("")
        except SinkError as error:
            said.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.emit(ONE)
    log.close()
    print(json.dumps(said))
"""


def test_a_full_disk_is_an_error_that_leaves_no_half_line_and_passes_when_there_is_room(path):
    code = textwrap.dedent(FULL).format(root=str(ROOT), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True, timeout=120)
    said = json.loads(done.stdout)
    written = said.count("")
    assert 0 < written < 20
    assert all("can't be written" in one for one in said[written:])
    report = verify(path, KEY)
    assert report.ok
    assert report.events == written + 1


def test_a_full_disk_at_a_new_file_is_made_up_for_later(path, monkeypatch):
    log = AuditLog(path, KEY, rotate_bytes=4000)
    write_to, told = os.write, 0

    def full(fd: int, content: bytes) -> int:
        if str(Path(f"/proc/self/fd/{fd}").readlink()) == str(path) and os.fstat(fd).st_size == 0:
            write_to(fd, content[:20])
            raise OSError(28, "No space left on device")
        return write_to(fd, content)

    monkeypatch.setattr(os, "write", full)
    for _ in range(20):
        try:
            log.emit(ONE)
            told += 1
        except SinkError as error:
            assert "No space left on device" in str(error)  # noqa: PT017 - some are written, some are not
    assert 0 < told < 20
    monkeypatch.setattr(os, "write", write_to)
    log.emit(ONE)
    log.close()
    report = verify(path, KEY)
    assert report.ok
    assert (report.events, report.files) == (told + 1, 2)


def test_with_block_a_full_disk_stops_the_step(path, policies, keywords, monkeypatch):
    log = AuditLog(path, KEY)
    guard = Guard.from_policies(policies, detector=keywords, sinks=[log], on_sink_error="block")

    def full(fd: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SinkError, match="AuditLog could not take VerdictEvent"):
        guard.check(Step(stage="input", text="Hello."))
    monkeypatch.undo()
    guard.check(Step(stage="input", text="Hello."))
    guard.close()
    assert verify(path, KEY).events == 1


@pytest.mark.parametrize("spoil", ["append", "truncate", "move", "remove", "replace"])
def test_what_somebody_does_to_the_file_meanwhile_is_told_at_once(path, spoil):
    log = AuditLog(path, KEY)
    log.emit(ONE)
    if spoil == "append":
        with path.open("ab") as file:
            file.write(b"x\n")
    elif spoil == "truncate":
        os.truncate(path, 10)
    elif spoil == "move":
        path.rename(path.with_name("moved"))
    elif spoil == "remove":
        path.unlink()
    else:
        path.with_name("new").write_bytes(path.read_bytes())
        path.with_name("new").replace(path)
    with pytest.raises(SinkError, match="somebody"):
        log.emit(ONE)
    abandon(log)


def test_a_file_in_the_way_of_the_next_is_not_overwritten(path):
    log = AuditLog(path, KEY, rotate_bytes=1000)
    path.with_name("audit.jsonl.000001").write_bytes(b"mine")
    with pytest.raises(SinkError, match="is there already"):
        for _ in range(3):
            log.emit(ONE)
    assert path.with_name("audit.jsonl.000001").read_bytes() == b"mine"
    abandon(log)


def test_to_close_twice_is_to_close_once(path):
    log = AuditLog(path, KEY)
    log.close()
    size = path.stat().st_size
    log.close()
    assert path.stat().st_size == size


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key": b"short"}, "at least 16 bytes, not 5; make one: openssl rand"),
        ({"key": "LEC_GUARD_NO_SUCH_KEY"}, "LEC_GUARD_NO_SUCH_KEY holds no key"),
        ({"rotate_bytes": 0}, "rotate_bytes must be at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
    ],
)
def test_what_can_not_work_is_an_error_at_once(path, options, says):
    with pytest.raises(SinkError, match=says):
        AuditLog(path, **{"key": KEY, **options})
    assert not path.exists()


def test_a_folder_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(SinkError, match=r"no/audit.jsonl.lock: can't be written: No such file"):
        AuditLog(tmp_path / "no" / "audit.jsonl", KEY)
