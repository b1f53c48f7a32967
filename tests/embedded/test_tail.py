import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.embedded import tail
from benchmarks.embedded.sets import Example

PAGE = r""".TH KILL 1
.SH NAME
kill \- send a \fBsignal\fR to a process
.PP
Use
.B kill \-9
with care; it can\(aqt be undone and nothing is saved.
.\" a comment
"""
MODULE = '''"""What the module is for, in a sentence."""
def f(x):
    """Say what f does with its one argument."""
    raise ValueError("give a number that is not negative, please")
'''


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("man/man1", "man/de/man1", "doc/bash", "packages/some", "log"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "man/man1/kill.1.gz").write_bytes(gzip.compress(PAGE.encode()))
    (tmp_path / "man/de/man1/ls.1").write_text(
        ".SH NAME\nls - den Inhalt von Verzeichnissen auflisten, der Reihe nach\n"
    )
    (tmp_path / "doc/bash/changelog.Debian.gz").write_bytes(
        gzip.compress(b"bash (5.2) stable; urgency=medium\n * Fix.")
    )
    (tmp_path / "doc/bash/broken.md.gz").write_bytes(b"no gzip at all")
    (tmp_path / "packages/some/__init__.py").write_text(MODULE)
    (tmp_path / "packages/some/odd.py").write_text("def (:\n")
    (tmp_path / "packages/loop").symlink_to(tmp_path)
    monkeypatch.setattr(tail, "_MAN", tmp_path / "man")
    monkeypatch.setattr(tail, "_DOC", tmp_path / "doc")
    monkeypatch.setattr(tail, "_PERL", ())
    monkeypatch.setattr(tail, "_INFO", tmp_path / "info")
    monkeypatch.setattr(tail, "_LOG", tmp_path / "log")
    monkeypatch.setattr(tail, "_packages", lambda: str(tmp_path / "packages"))
    return tmp_path


def test_texts_of_a_machine_are_found_by_kind(machine: Path) -> None:
    found = {
        one.family: one.text
        for one in tail.collect()
        if one.family.startswith(("tail_man", "tail_c", "tail_d", "tail_m"))
    }
    assert "kill - send a signal to a process" in found["tail_man_en"] or "with care" in found["tail_man_en"]
    assert "\\" not in found["tail_man_en"]
    assert "Verzeichnissen" in found["tail_man_de"]
    assert "urgency=medium" in found["tail_changelog"]
    assert "argument" in found["tail_docstring"] or "module" in found["tail_docstring"]
    assert found["tail_message"] == "give a number that is not negative, please"
    assert "def f(x)" in found["tail_code"]


def test_it_is_the_same_on_every_run_and_all_of_it_is_harmless(machine: Path) -> None:
    found = tail.collect()
    assert found == tail.collect()
    assert {(one.kind, one.label) for one in found} == {("document", "benign")}
    assert len({one.text for one in found}) == len(found)


def test_what_was_found_is_told(machine: Path, tmp_path: Path) -> None:
    found = tail.collect()
    tail.write(found, tmp_path / "out")
    counts = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert sum(counts.values()) == len(found) == len((tmp_path / "out" / "tail.jsonl").read_text().splitlines())


def test_held_out_kinds_are_collected() -> None:
    assert set(tail.HELD) <= {source.family for source in tail._sources()}


def test_of_each_kind_of_the_tail_as_many_are_drawn() -> None:
    kinds = {"tail_doc": 9, "tail_code": 3, "tail_info": 9}
    texts = [
        Example(source=kind, family=kind, kind="document", text=f"{kind} {n}", label="benign", category=None)
        for kind, count in kinds.items()
        for n in range(count)
    ]
    found = tail.drawn(texts, 4)
    assert Counter(one.family for one in found) == {"tail_doc": 4, "tail_code": 3}  # one kind is held out
    assert found == tail.drawn(texts, 4)
