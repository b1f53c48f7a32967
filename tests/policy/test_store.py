"""Which policies a tenant's steps are judged by, while files change."""

from __future__ import annotations

import json
import random
import re
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from lec_guard import PolicyError
from lec_guard.errors import BundleError
from lec_guard.guard import heads_of
from lec_guard.policy import store as store_module
from lec_guard.policy.compile import Heads
from lec_guard.policy.folder import BUILTIN
from lec_guard.policy.resolve import DetectorRef
from lec_guard.policy.store import EAGER, Changes, InForce, PolicyStore
from tests.conftest import ROOT, write_policies
from tests.policy.made import bell, heads, kept, rule

# What the packaged policy reads.
LABELS = {
    "injection": ("injection",),
    "indirect_injection": ("injection",),
    "safety": ("unsafe",),
    "reading": ("unknown_tokens",),
}

DEFAULT = "message: Default.\nrules:\n" + rule("one") + rule("two")
FLOOR = "rules:\n" + rule("floor")
STRICT = "extends: default\nrules:\n" + rule("strict")
OWN = "extends: default\nrules:\n" + rule("own")


def find_heads(ref: DetectorRef | None) -> Heads:
    if ref is not None and "missing" in ref.folder.name:
        raise BundleError(f"{ref.folder}: no bundle here")
    return heads(labels=LABELS, detector_id="guard@0" if ref is None else ref.id)


def load(folder: Path, files: dict[str, str], **more: object) -> PolicyStore:
    return PolicyStore(write_policies(folder, files), find_heads, **more)


def refused(folder: Path, files: dict[str, str]) -> str:
    with pytest.raises(PolicyError) as caught:
        load(folder, files)
    return str(caught.value)


def names(policies: InForce) -> list[str]:
    return [one.name for one in policies.live.policy.rules]


def version(store: PolicyStore, tenant: str | None) -> str:
    return store.get(tenant).live.policy.version


def told(changes: Changes) -> tuple[list[str], list[str]]:
    """The names of what came into force, and of what did not."""
    return [one.name for one in changes.renewed], [one.name for one in changes.refused]


def test_no_path_is_the_packaged_policy():
    store = PolicyStore(None, find_heads)
    assert store.get(None).live.policy.file == BUILTIN
    assert "injection" in names(store.get(None))
    assert (store.tenants(), store.shared()) == ((), ("default", "builtin"))
    with pytest.raises(PolicyError, match="unknown tenant 'acme'"):
        store.get("acme")


def test_one_file_is_the_default_policy(tmp_path):
    file = write_policies(tmp_path, {"mine.yaml": "extends: builtin\nrules:\n" + rule("own")}) / "mine.yaml"
    store = PolicyStore(str(file), find_heads)
    assert store.get(None).live.policy.name == "mine"
    assert names(store.get(None)) == [*names(PolicyStore(None, find_heads).get(None)), "own"]


def test_one_file_that_is_called_floor_is_a_policy_like_any_other(tmp_path):
    store = PolicyStore(write_policies(tmp_path, {"floor.yaml": FLOOR}) / "floor.yaml", find_heads)
    assert (store.get(None).live.policy.name, store.get(None).floor) == ("floor", None)


def test_a_folder_gives_each_tenant_its_own_policy(tmp_path):
    store = load(
        tmp_path,
        {
            "default.yaml": DEFAULT,
            "strict.yaml": STRICT,
            "tenants/a.yaml": "rules:\n" + rule("own"),
            "tenants/b.yml": "extends: strict",
            "tenants/c/policy.yaml": "extends: base\nrules:\n" + rule("c"),
            "tenants/c/base.yaml": "extends: strict\nrules:\n" + rule("base"),
        },
    )
    assert names(store.get(None)) == ["one", "two"]
    assert names(store.get("a")) == ["own"]
    assert names(store.get("b")) == ["one", "two", "strict"]
    assert names(store.get("c")) == ["one", "two", "strict", "base", "c"]
    assert store.get("c").live.policy.name == "c"
    assert store.tenants() == ("a", "b", "c")
    with pytest.raises(PolicyError, match="unknown tenant 'strict'"):
        store.get("strict")
    assert store.check() == []


def test_the_floor_stands_beside_every_policy(tmp_path):
    store = load(tmp_path, {"default.yaml": DEFAULT, "floor.yaml": FLOOR, "tenants/a.yaml": OWN})
    for tenant in (None, "a"):
        floor = store.get(tenant).floor
        assert floor is not None
        assert [one.name for one in floor.policy.rules] == ["floor"]
    assert "floor" not in names(store.get("a"))


def test_a_tenant_extends_its_own_policies_and_the_shared_ones_and_nobody_elses(tmp_path):
    files = {
        "default.yaml": DEFAULT,
        "tenants/a/policy.yaml": OWN,
        "tenants/a/base.yaml": OWN,
        "tenants/b.yaml": OWN,
    }
    for parent in ("a", "b", "base", "policy", "a/base", "../a/base"):
        message = refused(tmp_path / parent.replace("/", "-"), {**files, "tenants/c.yaml": f"extends: {parent}"})
        assert "c.yaml:1:1: " in message
    assert "no policy 'base' in the tenant's own folder or among the shared ones" in message or "pattern" in message


def test_a_policy_beside_that_of_the_tenant_may_extend_it(tmp_path):
    store = load(
        tmp_path,
        {
            "default.yaml": DEFAULT,
            "tenants/a/policy.yaml": OWN + "candidate: next",
            "tenants/a/next.yaml": "extends: policy\nrules:\n" + rule("next"),
        },
    )
    candidate = store.get("a").candidate
    assert candidate is not None
    assert [one.name for one in candidate.policy.rules] == ["one", "two", "own", "next"]


def test_policies_that_inherit_in_a_circle_are_refused(tmp_path):
    files = {
        "default.yaml": DEFAULT,
        "a.yaml": "# a\nextends: b",
        "b.yaml": "extends: a",
        "tenants/t.yaml": "extends: a",
    }
    message = refused(tmp_path / "1", files)
    assert "t -> a -> b -> a" in message
    assert message.startswith(f"{tmp_path / '1' / 'b.yaml'}:1:1: ")
    assert "default -> default" in refused(tmp_path / "2", {"default.yaml": "extends: default\n" + DEFAULT})
    own = {"default.yaml": DEFAULT, "tenants/t/policy.yaml": "extends: x", "tenants/t/x.yaml": "extends: policy"}
    assert "t -> x -> policy -> x" in refused(tmp_path / "3", own)


def test_the_mistakes_of_all_tenants_are_told_at_once(tmp_path):
    message = refused(
        tmp_path,
        {
            "default.yaml": DEFAULT,
            "tenants/a.yaml": "extends: default\nmesage: x",
            "tenants/b.yaml": OWN,
            "tenants/c.yaml": "extends: defualt",
        },
    )
    first, second = message.split("\n")
    assert first.startswith(f"{tmp_path / 'tenants' / 'a.yaml'}:2:1: mesage: ")
    assert second.startswith(f"{tmp_path / 'tenants' / 'c.yaml'}:1:1: no policy 'defualt'")
    assert "did you mean 'default'?" in second


def test_whatever_is_unclear_in_a_folder_is_refused(tmp_path):
    files = {"default.yaml": DEFAULT, "acme.yaml": DEFAULT, "tenants/acme.yaml": OWN, "tenants/notes.txt": ""}
    message = refused(tmp_path, files)
    assert [line.split(": ")[0] for line in message.split("\n")] == [
        str(tmp_path / "tenants" / name) for name in ("acme.yaml", "notes.txt")
    ]


@pytest.mark.parametrize("tenant", ["../x", "acme\n", "", "a/b", "..", "é", "a" * 129, 5, b"acme", ["acme"], {}, True])
def test_what_cannot_be_the_name_of_a_tenant_is_refused_even_if_unknown_tenants_are_welcome(tmp_path, tenant):
    store = load(tmp_path, {"default.yaml": DEFAULT + "unknown_tenant: default"})
    with pytest.raises(PolicyError, match="can't be the name of a tenant"):
        store.get(tenant)


def test_names_of_tenants_are_compared_exactly(tmp_path):
    store = load(tmp_path, {"default.yaml": DEFAULT, "tenants/acme.yaml": OWN})
    with pytest.raises(PolicyError, match=r"unknown tenant 'ACME': add tenants/ACME\.yaml, or .*unknown_tenant"):
        store.get("ACME")


def test_unknown_tenants_get_what_default_names(tmp_path):
    tenants = {"tenants/acme.yaml": "extends: default\nmessage: Acme."}
    to_default = load(tmp_path / "1", {"default.yaml": DEFAULT + "unknown_tenant: default", **tenants})
    to_acme = load(tmp_path / "2", {"default.yaml": DEFAULT + "unknown_tenant: acme", **tenants})
    assert to_default.get("globex").live.policy.name == "default"
    assert to_acme.get("globex").live.policy.name == "acme"
    # Neither reaches those who have a policy, or no name.
    assert to_default.get("acme").live.policy.name == "acme"
    assert to_acme.get(None).live.policy.name == "default"


def test_unknown_tenants_cannot_get_a_tenant_that_does_not_exist(tmp_path):
    files = {"default.yaml": DEFAULT + "unknown_tenant: acmee", "tenants/acme.yaml": OWN}
    message = refused(tmp_path, files)
    assert message.startswith(f"{tmp_path / 'default.yaml'}:5:1: no tenant 'acmee'")
    assert "did you mean 'acme'?" in message


@pytest.mark.parametrize(
    "file", ["base.yaml", "floor.yaml", "tenants/acme.yaml", "tenants/a/policy.yaml", "tenants/a/x.yaml"]
)
@pytest.mark.parametrize("key", ["unknown_tenant: default", "allowed_hosts: [example.com]"])
def test_only_default_says_what_holds_for_all(tmp_path, file, key):
    files = {"default.yaml": DEFAULT, "tenants/a/policy.yaml": "extends: x", "tenants/a/x.yaml": OWN}
    message = refused(tmp_path, {**files, file: f"rules: []\n{key}\nextends: default"})
    assert message.startswith(f"{tmp_path / file}:2:1: only default.yaml says {key.split(':')[0]}")


def test_the_hosts_of_the_operator_count_for_tenants(tmp_path):
    hook = "rules:\n" + rule("own", action="escalate", escalation="hook")
    hook += "escalations: {hook: {kind: webhook, url: 'https://hooks.example.com/x', secret: KEY}}\n"
    assert "not on the operator's list" in refused(tmp_path / "1", {"default.yaml": DEFAULT, "tenants/a.yaml": hook})
    hosts = "allowed_hosts: [hooks.example.com]\n" + DEFAULT
    load(tmp_path / "2", {"default.yaml": hosts, "tenants/a.yaml": hook}).get("a")


def test_a_floor_that_is_wrong_is_an_error_and_not_no_floor(tmp_path):
    for at, floor in enumerate(("rules: []", "rules:\n" + rule(head="zzz"), "candidate: default\n" + FLOOR, "[")):
        message = refused(tmp_path / str(at), {"default.yaml": DEFAULT, "floor.yaml": floor})
        assert message.startswith(f"{tmp_path / str(at) / 'floor.yaml'}")


def test_a_candidate_is_found_where_the_tenants_policies_are(tmp_path):
    files = {"default.yaml": DEFAULT, "strict.yaml": STRICT, "tenants/a.yaml": OWN + "candidate: strict"}
    candidate = load(tmp_path / "1", files).get("a").candidate
    assert candidate is not None
    assert candidate.policy.name == "strict"
    message = refused(tmp_path / "2", {**files, "tenants/a.yaml": OWN + "candidate: strikt"})
    assert message == f"{tmp_path / '2' / 'tenants' / 'a.yaml'}:4:1: no policy 'strikt'; did you mean 'strict'?"
    message = refused(tmp_path / "3", {**files, "strict.yaml": "extends: strikt"})
    assert message.startswith(f"{tmp_path / '3' / 'strict.yaml'}:1:1: no policy 'strikt' in")


def test_a_candidate_reads_the_scores_of_the_live_policys_detector(tmp_path):
    own = "detector: {bundle: own, id: own@0123456789abcdef}\n"
    files = {
        "default.yaml": DEFAULT,
        "tenants/a/next.yaml": OWN,
        "tenants/a/policy.yaml": own + OWN + "candidate: next",
    }
    candidate = load(tmp_path / "1", files).get("a").candidate
    assert candidate is not None
    assert candidate.detector_id == "own@0123456789abcdef"
    other = {**files, "tenants/a/next.yaml": own.replace("own@0", "own@1") + OWN}
    assert "a candidate reads the scores of the live policy's detector" in refused(tmp_path / "2", other)


def test_a_detector_that_cannot_be_had_is_told_with_its_place(tmp_path):
    own = "detector: {bundle: missing, id: own@0123456789abcdef}\n"
    message = refused(tmp_path, {"default.yaml": DEFAULT, "tenants/a.yaml": own + OWN})
    assert message == f"{tmp_path / 'tenants' / 'a.yaml'}:1:1: {tmp_path / 'missing'}: no bundle here"


def test_every_policy_has_a_name(tmp_path):
    tenant = {"tenants/a/policy.yaml": OWN, "tenants/a/next.yaml": OWN}
    store = load(tmp_path, {"default.yaml": DEFAULT, "floor.yaml": FLOOR, "strict.yaml": STRICT, **tenant})
    assert store.named("default") is store.get(None)
    assert store.named("a") is store.get("a")
    assert names(store.named("strict")) == ["one", "two", "strict"]
    assert store.named("strict").floor is store.get(None).floor
    assert (names(store.named("floor")), store.named("floor").floor) == (["floor"], None)
    assert names(store.named("a/next")) == ["one", "two", "own"]
    for wrong in ("zzz", "a/zzz", "zzz/next"):
        with pytest.raises(PolicyError, match=f"no policy '{wrong}'"):
            store.named(wrong)


def test_a_file_elsewhere_is_read_as_if_it_lay_there(tmp_path):
    store = load(tmp_path / "policies", {"default.yaml": DEFAULT, "floor.yaml": FLOOR, "tenants/a.yaml": OWN})
    write_policies(tmp_path, {"new.yaml": "extends: default\nrules:\n" + rule("new"), "bad.yaml": "extends: zzz"})
    assert names(store.read(tmp_path / "new.yaml")) == ["one", "two", "new"]
    assert store.read(tmp_path / "new.yaml").floor is store.get(None).floor
    assert store.read(tmp_path / "policies" / "tenants" / "a.yaml") is store.get("a")
    with pytest.raises(PolicyError, match=r"bad\.yaml:1:1: no policy 'zzz'"):
        store.read(tmp_path / "bad.yaml")


@pytest.mark.parametrize("path", [None, ROOT / "policies"], ids=["packaged", "repository"])
def test_the_policies_that_are_shipped_fit_the_detector_that_is_shipped(path, embedded):
    store = PolicyStore(path, lambda _: heads_of(embedded))
    assert store.check() == []
    for name in (None, *store.tenants()):
        assert any(one.action == "block" for one in store.get(name).live.policy.rules)
    assert set(store.tenants()) >= (set() if path is None else {"acme", "globex"})


# Many tenants.


def many(folder: Path, count: int) -> None:
    write_policies(folder, {"default.yaml": DEFAULT})
    (folder / "tenants").mkdir()
    for at in range(count):
        (folder / "tenants" / f"t{at}.yaml").write_text(f"extends: default\nrules:\n{rule(f'own{at}')}")


def test_ten_thousand_tenants_are_listed_and_each_is_read_when_it_comes(tmp_path, monkeypatch):
    many(tmp_path, 10_000)
    read: list[Path] = []
    monkeypatch.setattr(store_module, "read_file", _counted(store_module.read_file, read))
    tracemalloc.start()
    store = PolicyStore(tmp_path, find_heads, most=50)
    assert not [file for file in read if file.parent.name == "tenants"]
    loaded = tracemalloc.get_traced_memory()[0]
    assert loaded < 30e6
    for at in range(300):
        assert names(store.get(f"t{at}"))[-1] == f"own{at}"
    assert len(read) < 310
    grown = tracemalloc.get_traced_memory()[0]
    for at in range(300, 600):
        store.get(f"t{at}")
    # What stays of a tenant is its file.
    assert tracemalloc.get_traced_memory()[0] - grown < 300 * 6_000
    tracemalloc.stop()
    assert len(store._state.ready) == 50


def _counted(read: Callable[[Path], bytes], files: list[Path]) -> Callable[[Path], bytes]:
    def counted(file: Path) -> bytes:
        files.append(file)
        return read(file)

    return counted


def test_a_tenant_that_is_ready_is_not_made_again(tmp_path):
    store = load(tmp_path, {"default.yaml": DEFAULT, "tenants/a.yaml": OWN})
    assert store.get("a") is store.get("a")
    assert store.ready("a") is store.get("a")
    assert store.ready(None) is store.get(None)
    assert store.ready("zzz") is None
    assert store.ready(["a"]) is None


def test_a_few_tenants_are_read_at_once_and_of_many_the_one_that_unknown_ones_get(tmp_path):
    many(tmp_path, EAGER + 1)
    store = PolicyStore(tmp_path, find_heads)
    assert store.ready("t5") is None
    (tmp_path / "default.yaml").write_text(DEFAULT + "unknown_tenant: t5")
    (tmp_path / "tenants" / "t7.yaml").write_text("[")
    assert PolicyStore(tmp_path, find_heads).ready("t5") is not None
    assert PolicyStore(tmp_path, find_heads).check()[0].startswith(f"{tmp_path / 'tenants' / 't7.yaml'}:1:2: ")
    (tmp_path / "tenants" / "t5.yaml").write_text("[")
    with pytest.raises(PolicyError, match=r"t5\.yaml:1:2"):
        PolicyStore(tmp_path, find_heads)


def test_the_tenants_that_were_used_last_stay_ready(tmp_path):
    files = {f"tenants/{name}.yaml": OWN for name in "abc"}
    store = load(tmp_path, {"default.yaml": DEFAULT, **files}, most=2)
    assert [name for name in "abc" if store.ready(name)] == ["b", "c"]
    store.get("b")
    store.get("a")
    assert [name for name in "abc" if store.ready(name)] == ["a", "b"]
    store.get("b")
    store.get("a")
    (tmp_path / "default.yaml").write_text(DEFAULT.replace("Default.", "Other."))
    store.reload()
    store.get("c")
    assert [name for name in "abc" if store.ready(name)] == ["a", "c"]


def test_a_tenant_that_comes_back_has_the_version_that_was_in_force(tmp_path):
    files = {f"tenants/{name}.yaml": OWN for name in "abc"}
    store = load(tmp_path, {"default.yaml": DEFAULT, **files}, most=1)
    before = version(store, "a")
    for content in ("[", "", "rules:\n" + rule(threshold=0.99)):
        (tmp_path / "tenants" / "a.yaml").write_text(content)
        store.get("b")
        assert store.ready("a") is None
        assert version(store, "a") == before  # Nobody reloaded.
    (tmp_path / "tenants" / "a.yaml").unlink()
    store.get("b")
    assert version(store, "a") == before


def test_more_files_than_are_kept_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_KEPT", 3 * len(OWN))
    files = {f"tenants/{name}.yaml": OWN for name in "abcdef"}
    store = load(tmp_path, {"default.yaml": DEFAULT, **files}, most=1)
    assert len(store._made) == 3
    assert store._bytes == 3 * len(OWN)
    (tmp_path / "tenants" / "a.yaml").write_text("[")
    with pytest.raises(PolicyError, match=r"a\.yaml:1:2"):  # And by no weaker policy.
        store.get("a")
    assert store.get("f")


# While it runs.


class Running:
    """A folder with a store over it."""

    def __init__(self, folder: Path, files: dict[str, str] | None = None, **more: object) -> None:
        self.folder = folder
        self.write({"default.yaml": DEFAULT, "tenants/a.yaml": OWN, "tenants/b.yaml": OWN, **(files or {})})
        self.store = PolicyStore(folder, find_heads, **more)

    def write(self, files: dict[str, str]) -> None:
        write_policies(self.folder, files)

    def remove(self, *files: str) -> None:
        for file in files:
            (self.folder / file).unlink()

    def reload(self) -> tuple[list[str], list[str]]:
        return told(self.store.reload())

    def versions(self) -> dict[str | None, str]:
        return {name: version(self.store, name) for name in (None, *self.store.tenants())}


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(tmp_path)


GOOD = OWN + rule("more")


def test_without_a_change_nothing_is_renewed_or_told(running):
    before = {name: running.store.get(name).live for name in (None, "a", "b")}
    assert running.reload() == ([], [])
    assert all(running.store.get(name).live is live for name, live in before.items())


def test_a_good_edit_comes_into_force_and_is_told_with_both_versions(running):
    before = running.versions()
    held = running.store.get("a")
    running.write({"tenants/a.yaml": GOOD})
    assert running.versions() == before  # Until somebody reloads.
    (renewed,) = running.store.reload().renewed
    after = running.versions()
    assert (renewed.name, renewed.before, renewed.version) == ("a", before["a"], after["a"])
    assert after["a"] != before["a"]
    assert {name: one for name, one in after.items() if name != "a"} == {name: before[name] for name in (None, "b")}
    assert held.live.policy.version == before["a"]  # Who began with it ends with it.


def test_a_comment_is_no_news(running):
    running.write({"tenants/a.yaml": "# Hello\n" + OWN, "default.yaml": "# Hello\n" + DEFAULT})
    assert running.reload() == ([], [])
    assert running.store.get("a").live.policy.where("rules.own").endswith("a.yaml:4:5")


@pytest.mark.parametrize("content", ["", "[", OWN[:20], OWN[: len(OWN) // 2], "extends: zzz", OWN + "zzz: 1", "\0"])
def test_a_bad_edit_is_refused_once_and_what_was_in_force_stays(running, content):
    before = running.versions()
    running.write({"tenants/a.yaml": content, "tenants/b.yaml": GOOD})
    changes = running.store.reload()
    assert told(changes) == (["b"], ["a"])
    (refusal,) = changes.refused
    assert refusal.version == before["a"]
    assert str(running.folder / "tenants" / "a.yaml") in refusal.reason
    assert running.versions()["a"] == before["a"]
    assert running.reload() == ([], [])
    running.write({"tenants/a.yaml": "extends: 5"})
    assert running.reload() == ([], ["a"])  # For another reason.
    running.write({"tenants/a.yaml": GOOD})
    assert running.reload() == (["a"], [])
    running.write({"tenants/a.yaml": "{"})
    assert running.reload() == ([], ["a"])


def test_a_bad_edit_that_is_taken_back_is_no_news(running):
    running.write({"tenants/a.yaml": "["})
    assert running.reload() == ([], ["a"])
    running.write({"tenants/a.yaml": OWN})
    assert running.reload() == ([], [])


def test_a_tenant_whose_file_is_gone_keeps_its_policy(running):
    before = running.versions()
    running.write({"default.yaml": DEFAULT + "unknown_tenant: default"})
    running.reload()
    running.remove("tenants/a.yaml")
    changes = running.store.reload()
    assert [(one.name, one.version) for one in changes.refused] == [("a", before["a"])]
    assert "no such file" in changes.refused[0].reason
    assert running.versions() == before
    assert running.reload() == ([], [])
    running.write({"tenants/a.yaml": GOOD})
    assert running.reload() == (["a"], [])


def test_a_tenant_of_many_whose_file_is_gone_before_it_was_read_gets_no_other_policy(tmp_path):
    many(tmp_path, EAGER + 1)
    (tmp_path / "default.yaml").write_text(DEFAULT + "unknown_tenant: default")
    store = PolicyStore(tmp_path, find_heads)
    (tmp_path / "tenants" / "t5.yaml").unlink()
    for _ in range(2):
        with pytest.raises(PolicyError, match=r"t5\.yaml: can't be read: no such file"):
            store.get("t5")
        store.reload()


@pytest.mark.parametrize("name", ["default", "floor"])
def test_a_shared_policy_that_is_gone_stays_in_force(tmp_path, name):
    running = Running(tmp_path, {"floor.yaml": FLOOR})
    before = running.versions()
    running.remove(f"{name}.yaml")
    renewed, refused = running.reload()
    assert (renewed, refused) == ([], ["floor"] if name == "floor" else [str(tmp_path)])
    assert running.versions() == before
    assert running.store.get("a").floor is not None
    assert running.reload() == ([], [])
    running.write({f"{name}.yaml": {"default": DEFAULT, "floor": FLOOR}[name], "tenants/a.yaml": GOOD})
    assert running.reload() == (["a"], [])


def test_a_folder_that_is_gone_changes_nothing(running):
    before = running.versions()
    running.folder.rename(running.folder.with_name("elsewhere"))
    assert running.reload() == ([], [str(running.folder)])
    assert running.reload() == ([], [])
    assert running.versions() == before


def test_a_new_tenant_is_known_after_a_reload(running):
    running.write({"tenants/new.yaml": GOOD, "tenants/other/policy.yaml": OWN})
    with pytest.raises(PolicyError, match="unknown tenant 'new'"):
        running.store.get("new")
    changes = running.store.reload()
    assert [(one.name, one.before) for one in changes.renewed] == [("new", ""), ("other", "")]
    assert names(running.store.get("new")) == ["one", "two", "own", "more"]


def test_a_new_tenant_that_is_wrong_gets_no_other_policy_and_is_told(running):
    running.write({"default.yaml": DEFAULT + "unknown_tenant: default"})
    running.reload()
    assert running.store.get("new").live.policy.name == "default"
    running.write({"tenants/new.yaml": "["})
    (refusal,) = running.store.reload().refused
    assert (refusal.name, refusal.version) == ("new", None)
    with pytest.raises(PolicyError, match=r"new\.yaml:1:2"):
        running.store.get("new")
    running.write({"tenants/new.yaml": OWN})
    assert names(running.store.get("new")) == ["one", "two", "own"]


def test_a_change_of_the_default_reaches_who_extends_it(tmp_path):
    running = Running(tmp_path, {"tenants/b.yaml": "rules:\n" + rule("b")})
    before = running.versions()
    running.write({"default.yaml": DEFAULT + rule("three")})
    assert running.reload() == (["default", "a"], [])
    after = running.versions()
    assert {name for name in after if after[name] != before[name]} == {None, "a"}
    assert names(running.store.get("a")) == ["one", "two", "three", "own"]


def test_a_change_of_the_floor_reaches_everybody(tmp_path):
    running = Running(tmp_path, {"floor.yaml": FLOOR})
    running.write({"floor.yaml": FLOOR + rule("more"), "tenants/b.yaml": "["})
    assert running.reload() == (["floor"], ["b"])
    for tenant in (None, "a", "b"):
        floor = running.store.get(tenant).floor
        assert floor is not None
        assert len(floor.policy.rules) == 2


def test_a_floor_that_is_added_reaches_everybody(running):
    running.write({"floor.yaml": FLOOR})
    assert running.reload() == (["floor"], [])
    assert all(running.store.get(tenant).floor is not None for tenant in (None, "a", "b"))


@pytest.mark.parametrize("content", ["[", "rules: []", "rules:\n" + rule(head="zzz"), "candidate: default\n" + FLOOR])
def test_a_floor_that_is_wrong_leaves_the_one_that_was(tmp_path, content):
    running = Running(tmp_path, {"floor.yaml": FLOOR})
    before = running.store.get("a").floor
    running.write({"floor.yaml": content})
    renewed, refused = running.reload()
    assert (renewed, len(refused)) == ([], 1)
    assert running.store.get("a").floor is running.store.get(None).floor is before
    assert running.reload() == ([], [])


def test_what_leans_on_a_shared_policy_that_is_wrong_keeps_what_it_leant_on(tmp_path):
    running = Running(
        tmp_path, {"strict.yaml": STRICT, "tenants/a.yaml": "extends: strict\nrules:\n" + rule("own")}, most=1
    )
    before = running.versions()
    running.write({"strict.yaml": "[", "tenants/a.yaml": "extends: strict\nrules:\n" + rule("new")})
    # The tenant's own edit is good, and leans on the strict policy as it was.
    assert running.reload() == (["a"], ["strict"])
    assert names(running.store.get("a")) == ["one", "two", "strict", "new"]
    assert running.versions()["b"] == before["b"]


def test_a_shared_policy_that_breaks_tenants_leaves_those_as_they_were(tmp_path):
    asks = "extends: base\nrules:\n" + rule("own", action="escalate", escalation="desk")
    base = "extends: default\nescalations: {desk: {kind: queue}}\n"
    running = Running(tmp_path, {"base.yaml": base, "tenants/a.yaml": asks, "tenants/c.yaml": "extends: base"}, most=1)
    before = running.versions()
    running.write({"base.yaml": "extends: default\nmode: shadow\n"})
    changes = running.store.reload()
    assert told(changes) == (["c"], ["a"])
    assert changes.refused[0].version == before["a"]
    after = running.versions()
    assert (after["a"], after["b"]) == (before["a"], before["b"])
    # It was dropped and came back, made of the base as it was.
    assert running.store.ready("a") is None
    assert running.store.get("a").live.policy.mode == "enforce"
    assert running.reload() == ([], [])
    running.write({"base.yaml": base + "locale: de\n"})
    assert sorted(running.reload()[0]) == ["a", "c"]


def test_of_shared_policies_that_do_not_fit_each_other_none_is_taken(tmp_path):
    running = Running(tmp_path, {"strict.yaml": STRICT, "default.yaml": DEFAULT})
    before = running.versions()
    running.write({"default.yaml": DEFAULT.replace("head: injection", "head: zzz"), "strict.yaml": STRICT + rule("x")})
    assert running.reload() == ([], ["default"])
    assert running.versions() == before
    assert names(running.store.named("strict")) == ["one", "two", "strict"]
    running.write({"default.yaml": DEFAULT, "tenants/a.yaml": "extends: strict"})
    assert running.reload() == (["a"], [])
    assert names(running.store.get("a")) == ["one", "two", "strict", "x"]


def test_a_tenant_that_moves_into_a_folder_of_its_own_is_the_same(running):
    before = running.versions()
    running.remove("tenants/a.yaml")
    running.write({"tenants/a/policy.yaml": OWN})
    assert running.reload() == ([], [])
    assert running.versions() == before
    assert running.store.get("a").live.policy.file == running.folder / "tenants" / "a" / "policy.yaml"
    running.write({"tenants/a/policy.yaml": GOOD})
    assert running.reload() == (["a"], [])


def test_a_tenant_that_moves_and_is_wrong_keeps_its_policy_even_if_it_was_dropped(tmp_path):
    running = Running(tmp_path, most=1)
    before = running.versions()
    running.remove("tenants/a.yaml")
    running.write({"tenants/a/policy.yaml": "["})
    assert running.store.ready("a") is None
    assert running.reload() == ([], ["a"])
    assert running.versions() == before


@pytest.mark.parametrize(
    "more",
    [{"tenants/a.yml": GOOD}, {"tenants/a/policy.yaml": GOOD}, {"a.yaml": GOOD}],
    ids=["another ending", "a folder", "a shared policy"],
)
def test_where_two_files_are_one_tenants_the_first_stays_until_one_is_gone(running, more):
    before = running.versions()
    running.write(more)
    for _ in range(2):
        running.store.reload()
        assert running.versions() == before
    assert running.reload() == ([], [])
    (file,) = more
    running.remove(file)
    if file == "tenants/a/policy.yaml":
        (running.folder / "tenants" / "a").rmdir()
    running.write({"tenants/a.yaml": GOOD})
    assert running.reload() == (["a"], [])


def test_of_a_new_tenant_with_two_files_neither_is_taken_nor_another_policy(running):
    running.write({"default.yaml": DEFAULT + "unknown_tenant: default"})
    running.reload()
    running.write({"tenants/new.yaml": OWN, "tenants/new/policy.yaml": GOOD})
    (refusal,) = running.store.reload().refused
    assert (refusal.name, refusal.version) == ("new", None)
    with pytest.raises(PolicyError, match="is the same tenant's; keep one of them"):
        running.store.get("new")
    assert running.store.ready("new") is None
    assert running.store.ready("unknown") is running.store.get(None)
    running.remove("tenants/new.yaml")
    running.reload()
    assert names(running.store.get("new"))[-1] == "more"


def test_a_floor_in_capitals_leaves_the_one_that_was(tmp_path):
    running = Running(tmp_path, {"floor.yaml": FLOOR})
    (tmp_path / "floor.yaml").rename(tmp_path / "Floor.yaml")
    assert running.reload() == ([], ["floor"])
    assert running.store.get("a").floor is not None


def test_a_candidate_comes_and_changes_while_it_runs(tmp_path):
    running = Running(tmp_path, {"tenants/c/policy.yaml": OWN, "tenants/c/next.yaml": GOOD})
    running.write({"tenants/c/policy.yaml": OWN + "candidate: next"})
    assert running.reload() == (["next"], [])
    running.write({"tenants/c/next.yaml": GOOD + rule("again")})
    assert running.reload() == (["next"], [])
    candidate = running.store.get("c").candidate
    assert candidate is not None
    assert len(candidate.policy.rules) == 5
    running.write({"tenants/c/next.yaml": "["})
    assert running.reload() == ([], ["c"])
    assert running.store.get("c").candidate is candidate


def calibration(scale: float) -> str:
    entries = [entry.model_dump(mode="json") for entry in kept(bell(1000) * scale)]
    return json.dumps({"detector_id": "guard@0", "texts": 1000, "heads": {"injection": entries}})


@pytest.mark.parametrize("file", ["tenants/c/own.json", "own.json"])
def test_a_calibration_is_kept_and_renewed_with_its_policy(tmp_path, file):
    policy = "extends: default\ncalibration: own.json\n"
    shared = {"base.yaml": policy, "tenants/c/policy.yaml": "extends: base"}
    own = {"base.yaml": STRICT, "tenants/c/policy.yaml": policy}
    files = shared if file == "own.json" else own
    running = Running(tmp_path, {**files, file: calibration(1.0)}, most=1)
    before = running.versions()
    running.write({file: calibration(0.5)})
    assert running.store.ready("c") is not None
    running.store.get("b")
    assert running.versions() == before  # It came back, and nobody reloaded.
    assert running.reload() == (["c"], [])
    after = running.versions()
    running.write({file: "{"})
    assert running.reload() == ([], ["c"])
    running.store.get("b")
    assert running.versions() == after


def test_a_calibration_of_the_default_is_renewed(tmp_path):
    policy = "calibration: own.json\nrules:\n" + rule("one")
    running = Running(tmp_path, {"default.yaml": policy, "own.json": calibration(1.0)})
    before = running.versions()
    running.write({"own.json": "{"})
    assert running.reload() == ([], ["default"])
    running.write({"own.json": calibration(0.5)})
    assert sorted(running.reload()[0]) == ["a", "b", "default"]
    assert all(own != before[name] for name, own in running.versions().items())


def test_a_tenant_whose_detector_cannot_be_had_keeps_its_policy_and_is_tried_again(tmp_path):
    running = Running(tmp_path)
    before = running.versions()
    running.write({"tenants/a.yaml": "detector: {bundle: missing, id: own@0123456789abcdef}\n" + OWN})
    assert running.reload() == ([], ["a"])
    assert running.versions() == before
    running.write({"tenants/a.yaml": "detector: {bundle: there, id: own@0123456789abcdef}\n" + OWN})
    assert running.reload() == (["a"], [])


def test_sixteen_threads_get_tenants_while_another_one_reloads(tmp_path):
    contents = {
        name: ["extends: default\nrules:\n" + rule(name, threshold=0.1 * at) for at in range(1, 5)] for name in "abcdef"
    }
    defaults = [DEFAULT, DEFAULT + rule("three")]
    valid: set[str] = set()
    for at in range(4):
        for default in defaults:
            folder = tmp_path / f"valid{at}{len(default)}"
            files = {f"tenants/{name}.yaml": own[at] for name, own in contents.items()}
            store = load(folder, {"default.yaml": default, "floor.yaml": FLOOR, **files})
            valid |= {version(store, name) for name in (None, *"abcdef")}
    first = {f"tenants/{name}.yaml": own[0] for name, own in contents.items()}
    running = Running(tmp_path / "running", {"floor.yaml": FLOOR, **first}, most=3)
    over, errors, seen = threading.Event(), [], set()

    def ask(seed: int) -> None:
        choice = random.Random(seed)
        try:
            while not over.is_set():
                found = running.store.get(choice.choice([None, *"abcdef"]))
                assert found.floor is not None
                seen.add(found.live.policy.version)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(16)]
    for thread in threads:
        thread.start()
    choice, until = random.Random(0), time.monotonic() + 3
    try:
        while time.monotonic() < until:
            name = choice.choice("abcdef")
            bad = choice.choice(["", "[", contents[name][0][:30], "extends: zzz"])
            running.write({f"tenants/{name}.yaml": choice.choice([*contents[name], bad])})
            running.write({"default.yaml": choice.choice([*defaults, "["])})
            if choice.random() < 0.2:
                (running.folder / "tenants" / f"{name}.yaml").unlink()
            running.store.reload()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert seen <= valid
    assert len(seen) > 10


def test_a_lookup_is_not_held_up_by_a_reload(tmp_path):
    running = Running(tmp_path)
    entered, leave = threading.Event(), threading.Event()

    def slow(ref: DetectorRef | None) -> Heads:
        entered.set()
        assert leave.wait(30)
        return find_heads(ref)

    running.store._heads = slow
    running.write({"default.yaml": DEFAULT + rule("three")})
    thread = threading.Thread(target=running.store.reload)
    thread.start()
    try:
        assert entered.wait(30)
        assert names(running.store.get("a")) == ["one", "two", "own"]
        assert running.store.get(None)
    finally:
        leave.set()
        thread.join()
    assert names(running.store.get("a")) == ["one", "two", "three", "own"]


def test_versions_are_sixteen_hexadecimal_digits(running):
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in running.versions().values())
