"""Whatever somebody does to an audit log without its key is found, and told by its name."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lec_guard import SinkError
from lec_guard.observe.audit import AuditLog, Finding, Report, verify
from lec_guard.observe.audit.keys import Key
from lec_guard.observe.audit.lines import LONGEST
from tests.observe.audit.made import KEY, ONE, OTHER, abandon, lines, resealed, write

LONG = 10_000
EVENTS = LONG - 11  # and the first record, nine checkpoints and a last one


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """A log of 10,000 lines in one file."""
    path = write(tmp_path_factory.mktemp("long") / "audit.jsonl", EVENTS, checkpoint_every=1000)
    assert len(lines(path)) == LONG
    return path


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """A log of several files."""
    path = write(tmp_path_factory.mktemp("several") / "audit.jsonl", 60, rotate_bytes=12_000)
    assert len(list(path.parent.glob("audit.jsonl.0*"))) >= 4
    return path


@pytest.fixture
def copy(tmp_path) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        return Path(shutil.copytree(path.parent, tmp_path / "copy")) / path.name

    return make


def found(path: Path, key: bytes = KEY, **options: object) -> Finding:
    report = verify(path, key, **options)
    assert report.finding is not None
    assert not report.ok
    assert report.finding.file in report.finding.message
    return report.finding


def test_what_nobody_touched_is_fine(long):
    report = verify(long, KEY)
    assert report == Report(
        path=str(long),
        log=report.log,
        files=1,
        records=LONG,
        events=EVENTS,
        last=LONG,
        set_aside=0,
        lost=0,
        finding=None,
    )
    assert report.ok
    assert len(report.log or "") == 16


@pytest.mark.parametrize("seed", range(8))
def test_one_flipped_bit_among_ten_thousand_lines_is_found(long, copy, seed):
    path = copy(long)
    content = bytearray(path.read_bytes())
    chance = random.Random(seed)
    at = chance.randrange(len(content) - 1)
    content[at] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    finding = found(path)
    line = 1 + bytes(path.read_bytes())[:at].count(b"\n")
    assert finding.line in (line, line + 1)
    assert finding.kind == "changed"


def test_every_flipped_bit_of_a_short_log_is_found(tmp_path):
    path = write(tmp_path / "audit.jsonl", 1)
    content = path.read_bytes()
    for at in range(len(content)):
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << (at % 8)
        path.write_bytes(spoilt)
        assert not verify(path, KEY).ok, at


def test_every_flipped_bit_of_the_head_is_found(tmp_path):
    path = write(tmp_path / "audit.jsonl", 1)
    head = tmp_path / "audit.jsonl.head"
    content = head.read_bytes()
    for at in range(len(content)):
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << (at % 8)
        head.write_bytes(spoilt)
        assert not verify(path, KEY).ok, at


@pytest.mark.parametrize("gone", [1, 2, 999, 5000, LONG])
def test_a_cut_tail_is_found(long, copy, gone):
    path = copy(long)
    path.write_bytes(b"".join(lines(path)[: LONG - gone]))
    finding = found(path)
    assert (finding.kind, finding.file) == ("cut", "audit.jsonl.head")
    assert f"records {LONG - gone + 1} to {LONG} were written and are gone from the end" in finding.message


def test_a_cut_tail_is_found_while_nothing_was_forced_to_disk(tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, KEY, checkpoint_every=1000)
    for _ in range(10):
        log.emit(ONE)
    abandon(log)
    assert verify(path, KEY).ok
    path.write_bytes(b"".join(lines(path)[:-1]))
    assert found(path).kind == "cut"


def test_a_cut_in_the_middle_of_a_line_is_found(long, copy):
    path = copy(long)
    path.write_bytes(path.read_bytes()[:-30])
    finding = found(path)
    assert (finding.kind, finding.line) == ("truncated", LONG)


@pytest.mark.parametrize("begin", [0, 1, 5000, LONG - 3])
@pytest.mark.parametrize("claims", [None, Key(KEY).id])
def test_a_forged_chain_is_found(long, copy, begin, claims):
    """Somebody without the key signs all again from a place on; at the beginning they can claim either key."""
    path = copy(long)
    content = lines(path)
    forged = resealed(content, OTHER, claims)
    path.write_bytes(b"".join(content[:begin] + forged[begin:]))
    finding = found(path)
    assert (finding.kind, finding.line) == ("rechained", begin + 1)


def test_a_forged_chain_with_a_forged_head_is_found(tmp_path):
    path = write(tmp_path / "audit.jsonl", 5)
    write(tmp_path / "copy.jsonl", 5)
    path.unlink()
    path.with_name("audit.jsonl.head").unlink()
    log = AuditLog(path, OTHER)
    log.emit(ONE)
    log.close()
    finding = found(path)
    assert (finding.kind, finding.file, finding.line) == ("rechained", "audit.jsonl", 1)
    assert "not with one that was given" in finding.message


@pytest.mark.parametrize(("one", "two"), [(1, 2), (10, 11), (10, 500), (LONG - 2, LONG - 1)])
def test_swapped_lines_are_found(long, copy, one, two):
    path = copy(long)
    content = lines(path)
    content[one], content[two] = content[two], content[one]
    path.write_bytes(b"".join(content))
    finding = found(path)
    assert (finding.kind, finding.line) == ("reordered", one + 1)


@pytest.mark.parametrize(("first", "last"), [(1, 1), (77, 77), (500, 900), (LONG - 2, LONG - 2)])
def test_removed_lines_are_found(long, copy, first, last):
    path = copy(long)
    content = lines(path)
    del content[first : last + 1]
    path.write_bytes(b"".join(content))
    finding = found(path)
    assert (finding.kind, finding.line) == ("missing", first + 1)
    assert f"records {first + 1} to {last + 1} are missing" in finding.message


def test_a_first_line_that_is_removed_is_found(long, copy):
    path = copy(long)
    path.write_bytes(b"".join(lines(path)[1:]))
    assert found(path).kind == "missing"


def test_a_line_that_stands_twice_is_found(long, copy):
    path = copy(long)
    content = lines(path)
    content.insert(50, content[20])
    path.write_bytes(b"".join(content))
    finding = found(path)
    assert (finding.kind, finding.line) == ("reordered", 51)


@pytest.mark.parametrize(
    ("junk", "kind"),
    [(b"\n", "changed"), (b"{}\n", "changed"), (b"[" * 100_000 + b"\n", "changed"), (b"x", "truncated")],
)
def test_what_was_added_at_the_end_is_found(long, copy, junk, kind):
    path = copy(long)
    with path.open("ab") as file:
        file.write(junk)
    finding = found(path)
    assert (finding.kind, finding.line) == (kind, LONG + 1)


def test_a_line_as_long_as_memory_is_not_read_whole(long, copy):
    path = copy(long)
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 3 * LONGEST)
    assert found(path).kind == "changed"


def test_a_removed_file_in_the_middle_is_found(several, copy):
    path = copy(several)
    path.with_name("audit.jsonl.000002").unlink()
    finding = found(path)
    assert (finding.kind, finding.file, finding.line) == ("missing", "audit.jsonl.000002", None)


def test_a_removed_file_whose_successors_were_renamed_is_found(several, copy):
    path = copy(several)
    count = len(list(path.parent.glob("audit.jsonl.0*")))
    for number in range(2, count):
        path.with_name(f"audit.jsonl.{number + 1:06d}").replace(path.with_name(f"audit.jsonl.{number:06d}"))
    finding = found(path)
    assert (finding.kind, finding.file, finding.line) == ("missing", "audit.jsonl.000002", 1)


def test_swapped_files_are_found(several, copy):
    path = copy(several)
    one, two, away = (path.with_name(f"audit.jsonl.{name}") for name in ("000002", "000003", "away"))
    one.replace(away)
    two.replace(one)
    away.replace(two)
    finding = found(path)
    assert (finding.kind, finding.file) == ("missing", "audit.jsonl.000002")


def test_a_cut_tail_of_an_older_file_is_found(several, copy):
    path = copy(several)
    one = path.with_name("audit.jsonl.000002")
    one.write_bytes(b"".join(lines(one)[:-1]))
    finding = found(path)
    assert (finding.kind, finding.file, finding.line) == ("missing", "audit.jsonl.000003", 1)


def test_removed_files_at_the_end_are_found(several, copy):
    path = copy(several)
    path.unlink()
    assert found(path).kind == "cut"
    for one in path.parent.glob("audit.jsonl.0*"):
        one.unlink()
    finding = found(path)
    assert finding.kind == "cut"
    assert "the log ends with record 0" in finding.message


def test_removed_files_at_the_beginning_are_found_unless_they_may_be_gone(several, copy):
    path = copy(several)
    whole = verify(path, KEY)
    for number in (1, 2):
        path.with_name(f"audit.jsonl.{number:06d}").unlink()
    assert (found(path).kind, found(path).file) == ("missing", "audit.jsonl.000001")
    rest = verify(path, KEY, first_file=3)
    assert rest.ok
    assert rest.last == whole.last
    assert rest.records < whole.records
    one = path.with_name("audit.jsonl.000003")
    one.write_bytes(one.read_bytes().replace(b'"acme"', b'"bcme"', 1))
    assert found(path, first_file=3).kind == "changed"


def test_a_file_of_another_log_with_the_same_key_is_found(several, copy, tmp_path):
    path = copy(several)
    other = write(tmp_path / "audit.jsonl", 60, rotate_bytes=12_000)
    shutil.copy(other.with_name("audit.jsonl.000002"), path.with_name("audit.jsonl.000002"))
    finding = found(path)
    assert (finding.kind, finding.file, finding.line) == ("reordered", "audit.jsonl.000002", 1)


def test_a_removed_head_is_found(long, copy):
    path = copy(long)
    path.with_name("audit.jsonl.head").unlink()
    finding = found(path)
    assert (finding.kind, finding.file) == ("missing", "audit.jsonl.head")


def test_no_record_can_be_made_into_a_head(long, copy):
    """Who cuts the log has no head for the place: those that stand in the log are signed for another use."""
    path = copy(long)
    cut = lines(path)[:5000]
    path.write_bytes(b"".join(cut))
    checkpoint = next(line for line in reversed(cut) if b'"checkpoint"' in line)
    path.with_name("audit.jsonl.head").write_bytes(checkpoint.replace(b'"mac"', b'"sig"'))
    assert found(path).kind == "changed"


def test_a_log_that_was_put_back_with_its_head_is_found_by_a_head_that_was_kept(tmp_path):
    path = write(tmp_path / "audit.jsonl", 5)
    old = {one: one.read_bytes() for one in (path, tmp_path / "audit.jsonl.head")}
    write(path, 5)
    kept = tmp_path / "kept.head"
    shutil.copy(tmp_path / "audit.jsonl.head", kept)
    assert verify(path, KEY, head=kept).ok
    for one, content in old.items():
        one.write_bytes(content)
    # As it is, it is a log as it was written.
    assert verify(path, KEY).ok
    assert found(path, head=kept).kind == "cut"
    # Nor does it help that the log went on since.
    write(path, 20)
    assert verify(path, KEY).ok
    finding = found(path, head=kept)
    assert (finding.kind, finding.file) == ("cut", "kept.head")
    assert "written on" in finding.message


def test_records_that_do_not_follow_one_another_are_found_even_if_signed_with_the_key(tmp_path):
    path = write(tmp_path / "audit.jsonl", 5)
    content = lines(path)
    path.write_bytes(b"".join(resealed(content, KEY, change=lambda one: one.update(seq=one["seq"] + (one["seq"] > 3)))))
    finding = found(path)
    assert (finding.kind, finding.line) == ("changed", 4)
    assert "is record 5, not 4" in finding.message


def test_a_checkpoint_that_counts_wrong_is_found_even_if_signed_with_the_key(tmp_path):
    path = write(tmp_path / "audit.jsonl", 5)
    content = lines(path)
    path.write_bytes(
        b"".join(resealed(content, KEY, change=lambda one: one["kind"] == "checkpoint" and one.update(events=4)))
    )
    finding = found(path)
    assert (finding.kind, finding.line) == ("changed", 7)
    assert "counts 4 events, but there are 5" in finding.message


def test_a_log_may_be_longer_than_a_head_that_was_kept(tmp_path):
    path = write(tmp_path / "audit.jsonl", 5)
    shutil.copy(tmp_path / "audit.jsonl.head", tmp_path / "kept.head")
    write(path, 50, rotate_bytes=5000)
    assert verify(path, KEY, head=tmp_path / "kept.head").ok


def test_a_log_can_be_verified_while_it_is_written_to(tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, KEY)
    for number in range(5):
        log.emit(ONE)
        report = verify(path, KEY)
        assert report.ok
        assert report.events == number + 1
    log.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key": b"short"}, "at least 16 bytes"),
        ({"key": "LEC_GUARD_NO_SUCH_KEY"}, "holds no key"),
        ({"path": "no/such/folder/audit.jsonl"}, "no/such/folder: can't be read: No such file"),
        ({"head": "no.head"}, "no.head: there is no such file"),
    ],
)
def test_what_can_not_be_read_is_an_error(long, options, says):
    with pytest.raises(SinkError, match=says):
        verify(**{"path": long, "key": KEY, **options})


def test_nothing_at_all_is_no_log(tmp_path):
    assert found(tmp_path / "audit.jsonl").kind == "missing"


def test_a_report_is_plain_data(long, copy):
    assert verify(long, KEY).to_dict()["ok"] is True
    path = copy(long)
    path.write_bytes(b"".join(lines(path)[:-1]))
    told = verify(path, KEY).to_dict()
    assert told["ok"] is False
    assert told["finding"]["kind"] == "cut"
