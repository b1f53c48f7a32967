"""Policies that change while a guard runs: real files, real edits, and a thread that goes away."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lec_guard import Event, Guard, GuardRunnable, PolicyError, PolicyReloaded, ReloadRefused, Step
from lec_guard.policy import watch
from lec_guard.policy.watch import Watcher
from lec_guard.testing import KeywordDetector
from tests.conftest import ROOT, write_policies

PATIENCE = 30.0
ATTACK = Step(stage="input", text="An ATTACK.")
RULE = "rules: [{name: r, stages: [input], head: injection, threshold: 0.5, action: %s}]\n"
BLOCK, FLAG = RULE % "block", RULE % "flag"


def until(holds: Callable[[], object]) -> None:
    """Wait for what another thread does; a test that waits in vain fails."""
    ends = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < ends, "nothing happened"
        time.sleep(0.01)


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == watch.THREAD]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not watchers()


class Sink:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def told(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Watched:
    """A guard that watches, what it was told, and what it makes of an attack."""

    def __init__(self, path: Path, *sinks: Any) -> None:
        self.sink = Sink()
        detector = KeywordDetector({"injection": {"injection": ["attack"]}})
        self.guard = Guard.from_policies(path, detector=detector, sinks=[*sinks, self.sink], watch=True)

    def action(self, tenant: str | None = None) -> str:
        return self.guard.check(ATTACK, tenant).action

    def told(self, kind: type) -> list[Any]:
        return self.sink.told(kind)


@pytest.fixture
def watched() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def build(path: Path, *sinks: Any) -> Watched:
        made.append(Watched(path, *sinks))
        return made[-1]

    yield build
    for one in made:
        one.guard.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_policies(tmp_path / "policies", {"default.yaml": BLOCK, "tenants/acme.yaml": "extends: default"})


def test_an_edit_comes_into_force_and_is_told(folder, watched):
    one = watched(folder)
    before = one.guard.policy("acme").version
    (folder / "default.yaml").write_text(FLAG)
    until(lambda: one.action("acme") == "flag")
    until(lambda: len(one.told(PolicyReloaded)) == 2)
    assert {event.policy for event in one.told(PolicyReloaded)} == {"default", "acme"}
    [acme] = [event for event in one.told(PolicyReloaded) if event.policy == "acme"]
    assert (acme.before, acme.version) == (before, one.guard.policy("acme").version)


@pytest.mark.parametrize(
    "bad",
    ["rules: [{name: r", "mesage: No.", "extends: defualt", "rules: []", "rules: [{name: r}]", "\x00", "&a [*a]", ""],
)
def test_a_bad_edit_leaves_what_was_in_force_and_is_told_and_mended(folder, watched, bad):
    one = watched(folder)
    file, version = folder / "tenants/acme.yaml", one.guard.policy("acme").version
    file.write_text(bad)
    until(lambda: one.told(ReloadRefused))
    for refused in one.told(ReloadRefused):  # Two, if the file was read while it was written.
        assert (refused.policy, refused.version) == ("acme", version)
        assert str(file) in refused.reason
    assert (one.action("acme"), one.guard.policy("acme").version) == ("block", version)
    file.write_text(FLAG)
    until(lambda: one.action("acme") == "flag")


def test_a_file_that_is_gone_leaves_what_was_in_force(folder, watched):
    one = watched(folder)
    file = folder / "tenants/acme.yaml"
    file.unlink()
    until(lambda: one.told(ReloadRefused))
    assert one.action("acme") == "block"
    file.write_text(FLAG)
    until(lambda: one.action("acme") == "flag")


def test_a_file_that_is_replaced_in_one_piece(folder, watched):
    one = watched(folder)
    for action in ("flag", "block", "flag"):
        new = folder / ".default.yaml.new"
        new.write_text(RULE % action)
        new.replace(folder / "default.yaml")
        until(lambda action=action: one.action() == action)
    assert one.told(ReloadRefused) == []


def test_a_new_tenant_is_known(folder, watched):
    one = watched(folder)
    with pytest.raises(PolicyError, match="unknown tenant"):
        one.action("globex")
    (folder / "tenants/globex.yaml").write_text(FLAG)
    until(lambda: "globex" in one.guard.policies.tenants())
    assert one.action("globex") == "flag"


def test_the_first_tenant_may_come_later(tmp_path, watched):
    one = watched(write_policies(tmp_path / "p", {"default.yaml": BLOCK}))
    write_policies(tmp_path / "p", {"tenants/acme/policy.yaml": FLAG})
    until(lambda: "acme" in one.guard.policies.tenants())
    assert one.action("acme") == "flag"
    (tmp_path / "p/tenants/acme/policy.yaml").write_text(BLOCK)
    until(lambda: one.action("acme") == "block")


def test_a_floor_may_come_later_and_does_not_go(folder, watched):
    one = watched(folder)
    floor = folder / "floor.yaml"
    floor.write_text(BLOCK)
    until(lambda: len(one.guard.check(ATTACK, "acme").judgements) == 2)
    (folder / "default.yaml").write_text(FLAG)
    until(lambda: one.guard.check(ATTACK).judgements[0].action == "flag")
    floor.unlink()
    until(lambda: one.told(ReloadRefused))
    assert one.guard.check(ATTACK, "acme").rule == "floor:r"


def test_a_mounted_folder_whose_content_is_swapped(tmp_path, watched):
    """As Kubernetes mounts a ConfigMap: files are links through `..data`, which is put in place in one piece."""
    mount = tmp_path / "mount"

    def put(number: int, action: str) -> None:
        content = mount / f"..2026_{number}"
        write_policies(content, {"default.yaml": RULE % action})
        (mount / "..data_tmp").symlink_to(content.name)
        (mount / "..data_tmp").replace(mount / "..data")

    mount.mkdir()
    put(1, "block")
    (mount / "default.yaml").symlink_to("..data/default.yaml")
    one = watched(mount)
    assert one.action() == "block"
    for number, action in ((2, "flag"), (3, "block")):
        put(number, action)
        until(lambda action=action: one.action() == action)
    assert one.told(ReloadRefused) == []


def test_one_file(tmp_path, watched):
    file = write_policies(tmp_path, {"mine.yaml": BLOCK}) / "mine.yaml"
    one = watched(file)
    (tmp_path / "other.yaml").write_text("nothing of ours")
    file.write_text(FLAG)
    until(lambda: one.action() == "flag")
    new = tmp_path / "new"
    new.write_text(BLOCK)
    new.replace(file)
    until(lambda: one.action() == "block")


def test_what_changes_while_the_watch_begins_is_seen(folder, monkeypatch, watched):
    import watchfiles

    begin = watchfiles.watch

    def late(*given: Any, **more: Any) -> Any:
        (folder / "default.yaml").write_text(FLAG)
        return begin(*given, **more)

    monkeypatch.setattr(watchfiles, "watch", late)
    one = watched(folder)
    until(lambda: one.action() == "flag")


def test_a_sink_that_fails_keeps_neither_the_change_nor_the_next_sink_from_it(folder, watched, caplog):
    class Full:
        def emit(self, event: Event) -> None:
            if isinstance(event, PolicyReloaded):
                raise OSError("disk full")

    one = watched(folder, Full())
    for action in ("flag", "block"):
        (folder / "default.yaml").write_text(RULE % action)
        until(lambda action=action: one.action() == action)
    until(lambda: len(one.told(PolicyReloaded)) >= 2)
    assert "the sink Full could not take PolicyReloaded" in caplog.text


def test_what_fails_once_does_not_end_the_watch(folder, caplog):
    calls = []

    def changed() -> None:
        calls.append(1)
        raise RuntimeError("no memory")

    watcher = Watcher(folder, changed, calls.append)
    until(lambda: calls == [1])
    (folder / "default.yaml").write_text(FLAG)
    until(lambda: len(calls) >= 2)
    watcher.close()
    assert "policies could not be reloaded; those in force stay" in caplog.text
    assert set(calls) == {1}


def test_a_watch_that_ends_is_told(folder, monkeypatch, watched):
    import watchfiles

    def broken(*_: object, **__: object) -> Iterator[set[Any]]:
        yield set()
        raise OSError("no more watches")

    monkeypatch.setattr(watchfiles, "watch", broken)
    one = watched(folder)
    until(lambda: one.told(ReloadRefused))
    [refused] = one.told(ReloadRefused)
    assert (refused.policy, refused.version) == (str(folder), None)
    assert refused.reason == "policies are not watched any more: OSError('no more watches')"


def test_close_ends_the_thread_at_once_and_may_be_called_again(folder, watched):
    one = watched(folder)
    [thread] = watchers()
    began = time.monotonic()
    one.guard.close()
    assert not thread.is_alive()
    assert time.monotonic() - began < 5
    one.guard.close()
    (folder / "default.yaml").write_text(FLAG)
    assert one.action() == "block"


def test_close_may_be_called_by_what_is_told(folder):
    class Closing:
        guard: Guard

        def emit(self, event: Event) -> None:
            self.guard.close()

    sink = Closing()
    detector = KeywordDetector({"injection": {"injection": ["attack"]}})
    sink.guard = Guard.from_policies(folder, detector=detector, sinks=[sink], watch=True)
    (folder / "default.yaml").write_text(FLAG)
    until(lambda: not watchers())


def test_a_guard_that_nobody_holds_any_more_is_not_kept_by_its_watch(folder):
    one = Watched(folder)
    gone = weakref.ref(one.guard)
    assert watchers()
    del one
    gc.collect()
    assert gone() is None
    until(lambda: not watchers())


def test_a_guard_that_nobody_closed_does_not_keep_the_program(folder):
    script = f"""
        import threading
        from lec_guard import Guard
        from lec_guard.testing import KeywordDetector

        detector = KeywordDetector({{"injection": {{"injection": []}}}})
        guard = Guard.from_policies({str(folder)!r}, detector=detector, watch=True)
        print(sum(thread.name == {watch.THREAD!r} for thread in threading.enumerate()))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_without_its_package_the_command_to_install_it_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(PolicyError, match=r"pip install 'lec-guard\[policies\]'"):
        Guard.from_policies(folder, detector=KeywordDetector({"injection": {"injection": []}}), watch=True)


def test_the_packaged_policy_is_not_watched(keywords):
    for kind in (Guard, GuardRunnable):
        with pytest.raises(PolicyError, match="watch=True: the packaged policy does not change"):
            kind.from_policies(detector=keywords, watch=True)


def test_nothing_is_watched_unless_somebody_asks(folder, keywords):
    keywords = KeywordDetector({"injection": {"injection": ["attack"]}})
    guard = Guard.from_policies(folder, detector=keywords)
    assert not watchers()
    (folder / "default.yaml").write_text(FLAG)
    assert guard.check(ATTACK).action == "block"
    guard.reload()
    assert guard.check(ATTACK).action == "flag"
