"""Every mistake of a folder at once."""

from __future__ import annotations

import pytest

from lec_guard.errors import PolicyError
from lec_guard.guard import heads_of
from lec_guard.policy.check import check_policies
from lec_guard.testing import KeywordDetector
from tests.conftest import write_policies

HEADS = heads_of(KeywordDetector({"injection": {"injection": ["attack"]}, "safety": {"unsafe": [], "rude": []}}))


def rule(name: str, head: str = "injection") -> str:
    return f"  - {{name: {name}, stages: [input], head: {head}, threshold: 0.5, action: block}}\n"


def check(folder, files):
    return check_policies(write_policies(folder, files), lambda ref: HEADS)


def test_what_is_right_is_counted(tmp_path):
    checked = check(
        tmp_path,
        {
            "default.yaml": "rules:\n" + rule("one"),
            "floor.yaml": "rules:\n" + rule("one"),
            "tenants/acme.yaml": "extends: default\nrules:\n" + rule("two"),
            "tenants/big/policy.yaml": "extends: default\ncandidate: next\n",
            "tenants/big/next.yaml": "extends: policy\nrules:\n" + rule("two") + rule("three"),
        },
    )
    assert checked.mistakes == ()
    assert (checked.shared, checked.tenants, checked.floor) == (2, 2, True)


BROKEN = {
    "unknown key": "mesage: No.\nrules:\n" + rule("one"),
    "no YAML": "rules: [\n",
    "no such head": "rules:\n" + rule("one", "injektion"),
    "no such parent": "extends: defalt\nrules:\n" + rule("one"),
}
SAID = {
    "unknown key": ":1:1: mesage: ",
    "no YAML": ":2:1: not valid YAML: ",
    "no such head": ":2:5: rule 'one': the detector has no head 'injektion'; did you mean 'injection'?",
    "no such parent": ":1:1: no policy 'defalt'",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_default_does_not_hide_what_is_wrong_elsewhere(tmp_path, kind):
    checked = check(
        tmp_path,
        {
            "default.yaml": BROKEN[kind],
            "other.yaml": "rules:\n" + rule("one"),
            "tenants/acme.yaml": "extends: default\nmode: watch\n",
            "tenants/big/policy.yaml": "extends: default\n",
            "tenants/big/next.yaml": "extends: other\nhold_bak: all\n",
        },
    )
    default, acme, big = (tmp_path / name for name in ("default.yaml", "tenants/acme.yaml", "tenants/big/next.yaml"))
    for wanted in (f"{default}{SAID[kind]}", f"{acme}:2:1: mode: ", f"{big}:2:1: hold_bak: "):
        assert [wanted for one in checked.mistakes if one.startswith(wanted)] == [wanted], checked.mistakes
    assert len(checked.mistakes) == 3


def test_what_can_be_made_ready_is_held_against_the_detector_though_the_default_cant(tmp_path):
    checked = check(
        tmp_path,
        {
            "default.yaml": "rules:\n" + rule("one", "injektion"),
            "tenants/acme.yaml": "extends: default\n",
            "tenants/big/policy.yaml": "rules:\n" + rule("two", "saftey"),
            "tenants/big/next.yaml": "extends: policy\n",
            "tenants/globex.yaml": "extends: nothing\n",
        },
    )
    assert sorted(one.removeprefix(f"{tmp_path}/").partition(";")[0] for one in checked.mistakes) == [
        "default.yaml:2:5: rule 'one': the detector has no head 'injektion'",
        "tenants/big/policy.yaml:2:5: rule 'two': the detector has no head 'saftey'",
        "tenants/globex.yaml:1:1: no policy 'nothing' in the tenant's own folder or among the shared ones",
    ]


def test_a_policy_that_nobody_uses_is_read_too(tmp_path):
    checked = check(
        tmp_path,
        {
            "default.yaml": "rules:\n" + rule("one"),
            "tenants/big/policy.yaml": "extends: default\n",
            "tenants/big/idle.yaml": "extends: default\nrules:\n" + rule("two", "saftey"),
        },
    )
    assert [one.partition(":")[0] for one in checked.mistakes] == [str(tmp_path / "tenants" / "big" / "idle.yaml")]


def test_many_tenants_are_all_read(tmp_path):
    files = {f"tenants/t{at}.yaml": "extends: default\n" for at in range(150)}
    checked = check(tmp_path, {"default.yaml": "rules:\n" + rule("one"), **files, "tenants/t149.yaml": "mode: watch\n"})
    assert len(checked.mistakes) == 1
    assert "t149.yaml:1:1: mode: " in checked.mistakes[0]


def test_files_that_are_no_policies_are_told(tmp_path):
    checked = check(
        tmp_path,
        {"default.yaml": "rules:\n" + rule("one"), "tenants/notes.txt": "", "tenants/acme.yaml": "mode: watch\n"},
    )
    assert len(checked.mistakes) == 2
    assert "notes.txt: not a policy" in checked.mistakes[0]
    assert "acme.yaml:1:1: mode: " in checked.mistakes[1]


def test_no_folder_is_no_answer(tmp_path):
    with pytest.raises(PolicyError, match="no such policy file or folder"):
        check_policies(tmp_path / "nothing", lambda ref: HEADS)


def test_a_shared_policy_may_be_called_as_the_main_one_of_a_folder_is(tmp_path):
    files = {
        "default.yaml": "mesage: No.\nrules:\n" + rule("one"),
        "policy.yaml": "rules:\n" + rule("shared"),
        "tenants/acme.yaml": "extends: policy\nrules:\n" + rule("two"),
    }
    [mistake] = check(tmp_path, files).mistakes
    assert "mesage" in mistake
