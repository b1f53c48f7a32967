"""Which policy a tenant gets, and what it inherits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lec_guard import PolicyError
from lec_guard.policy.store import BUILTIN, Policy, PolicyStore
from tests.conftest import ROOT, write_policies


def rule(name: str, threshold: float = 0.5, action: str = "block", more: str = "") -> str:
    return f"  - {{name: {name}, stages: [input], head: injection, threshold: {threshold}, action: {action}{more}}}\n"


def load(folder: Path, files: dict[str, str]) -> PolicyStore:
    return PolicyStore.load(write_policies(folder, files))


def refused(folder: Path, files: dict[str, str]) -> str:
    with pytest.raises(PolicyError) as caught:
        load(folder, files)
    return str(caught.value)


def names(policy: Policy) -> list[str]:
    return [rule.name for rule in policy.rules]


DEFAULT = "message: Default.\nrules:\n" + rule("one") + rule("two") + rule("three")


def test_no_path_is_the_packaged_policy():
    store = PolicyStore.load()
    assert store.get(None).file == BUILTIN
    assert "injection" in names(store.get(None))
    assert store.policies() == (store.get(None),)
    with pytest.raises(PolicyError, match="unknown tenant 'acme'"):
        store.get("acme")


def test_one_file_is_the_default_policy(tmp_path):
    file = write_policies(tmp_path, {"mine.yaml": "extends: builtin\nrules:\n" + rule("own")}) / "mine.yaml"
    store = PolicyStore.load(str(file))
    assert store.get(None).name == "mine"
    assert names(store.get(None)) == [*names(PolicyStore.load().get(None)), "own"]


def test_a_folder_gives_each_tenant_its_own_policy(tmp_path):
    store = load(
        tmp_path,
        {"default.yaml": DEFAULT, "tenants/acme.yaml": "rules:\n" + rule("own"), "tenants/b.yml": "extends: default"},
    )
    assert names(store.get(None)) == ["one", "two", "three"]
    assert names(store.get("acme")) == ["own"]
    assert names(store.get("b")) == ["one", "two", "three"]
    assert [policy.name for policy in store.policies()] == ["default", "acme", "b"]
    assert store.get("acme").file == tmp_path / "tenants" / "acme.yaml"


def test_a_rule_of_the_same_name_replaces_the_inherited_one_in_its_place(tmp_path):
    child = "extends: default\nrules:\n" + rule("new") + rule("two", 0.9, "flag")
    policy = load(tmp_path, {"default.yaml": DEFAULT, "tenants/acme.yaml": child}).get("acme")
    assert names(policy) == ["one", "two", "three", "new"]
    assert (policy.rules[1].threshold, policy.rules[1].action) == (0.9, "flag")
    # The parent keeps its own.
    assert policy.rules[0].threshold == 0.5


def test_a_chain_of_parents_is_followed_to_its_root(tmp_path):
    store = load(
        tmp_path,
        {
            "default.yaml": "extends: builtin\nrules:\n" + rule("own"),
            "strict.yaml": "extends: default\nrules:\n" + rule("own", 0.1) + rule("strict"),
            "tenants/acme.yaml": "extends: strict\nrules:\n" + rule("acme"),
        },
    )
    inherited = names(PolicyStore.load().get(None))
    policy = store.get("acme")
    assert names(policy) == [*inherited, "own", "strict", "acme"]
    assert policy.rules[len(inherited)].threshold == 0.1
    # A base is no tenant.
    with pytest.raises(PolicyError, match="unknown tenant 'strict'"):
        store.get("strict")


def test_a_message_is_inherited_from_the_nearest_that_has_one(tmp_path):
    store = load(
        tmp_path,
        {
            "default.yaml": DEFAULT,
            "loud.yaml": "extends: default\nmessage: LOUD.",
            "tenants/a.yaml": "extends: default",
            "tenants/b.yaml": "extends: loud",
            "tenants/c.yaml": "extends: loud\nmessage: Mine.",
            "tenants/d.yaml": "rules:\n" + rule("own"),
        },
    )
    assert [store.get(tenant).message for tenant in "abc"] == ["Default.", "LOUD.", "Mine."]
    # Somebody who is blocked is always told something.
    assert store.get("d").message


def test_policies_that_inherit_in_a_circle_are_refused(tmp_path):
    message = refused(
        tmp_path,
        {"default.yaml": DEFAULT, "a.yaml": "# a\nextends: b", "b.yaml": "extends: a", "tenants/t.yaml": "extends: a"},
    )
    assert "t -> a -> b -> a" in message
    assert message.startswith(f"{tmp_path / 'b.yaml'}:1: ")


def test_a_policy_that_extends_itself_is_refused(tmp_path):
    assert "default -> default" in refused(tmp_path, {"default.yaml": "extends: default\n" + DEFAULT})


def test_an_unknown_parent_is_refused_with_a_suggestion(tmp_path):
    message = refused(tmp_path, {"default.yaml": DEFAULT, "tenants/acme.yaml": "\nextends: defualt"})
    assert message.startswith(f"{tmp_path / 'tenants' / 'acme.yaml'}:2: no policy 'defualt'")
    assert "did you mean 'default'?" in message


def test_the_error_of_a_wrong_tenant_names_its_file_and_line(tmp_path):
    message = refused(tmp_path, {"default.yaml": DEFAULT, "tenants/acme.yaml": "extends: default\nmesage: x"})
    assert message.startswith(f"{tmp_path / 'tenants' / 'acme.yaml'}:2: mesage: ")


@pytest.mark.parametrize("file", ["builtin.yaml", "tenants/builtin.yaml", "tenants/builtin.yml"])
def test_nobody_may_be_called_builtin(tmp_path, file):
    message = refused(tmp_path, {"default.yaml": DEFAULT, file: "extends: default"})
    assert message.startswith(f"{tmp_path / file}: ")
    assert "'builtin' is taken" in message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tenants/acme.yaml", "tenants/acme.yml"),
        ("acme.yaml", "tenants/acme.yaml"),
        ("default.yaml", "default.yml"),
        ("default.yaml", "tenants/default.yaml"),
    ],
)
def test_two_files_of_one_name_are_refused(tmp_path, first, second):
    message = refused(tmp_path, {"default.yaml": DEFAULT, first: DEFAULT, second: DEFAULT})
    assert message == f"{tmp_path / second}: {tmp_path / first} has the same name; rename one of them"


@pytest.mark.parametrize("file", ["tenants/a b.yaml", "tenants/-a.yaml", "tenants/acme\n.yaml", "tenants/.yaml.yaml"])
def test_a_file_whose_name_no_tenant_can_have_is_refused(tmp_path, file):
    assert "file name may have letters" in refused(tmp_path, {"default.yaml": DEFAULT, file: "extends: default"})


def test_a_folder_without_a_default_is_refused(tmp_path):
    assert "no default.yaml" in refused(tmp_path, {"tenants/acme.yaml": DEFAULT})


def test_a_path_where_nothing_is_is_refused(tmp_path):
    with pytest.raises(PolicyError, match=re.escape(f"{tmp_path / 'nothing'}: no such policy file or folder")):
        PolicyStore.load(tmp_path / "nothing")


@pytest.mark.parametrize("content", ["", "# nothing\n", "message: No.\n", "rules: []\n"])
@pytest.mark.parametrize("file", ["default.yaml", "tenants/acme.yaml"])
def test_a_policy_that_would_let_everything_pass_is_refused(tmp_path, file, content):
    message = refused(tmp_path, {"default.yaml": DEFAULT, file: content})
    assert message.startswith(f"{tmp_path / file}: a policy without any rule")


@pytest.mark.parametrize(
    "tenant",
    [
        "../x",
        "acme\n",
        "\nacme",
        "",
        " acme",
        "a/b",
        "a\\b",
        ".",
        "..",
        "-x",
        "a" * 129,
        "é",
        "a\x00",
        5,
        b"acme",
        ["acme"],
        True,
    ],
)
def test_what_cannot_be_the_name_of_a_tenant_is_refused_even_if_unknown_tenants_are_welcome(tmp_path, tenant):
    store = load(tmp_path, {"default.yaml": DEFAULT + "unknown_tenant: default"})
    with pytest.raises(PolicyError, match="can't be the name of a tenant") as caught:
        store.get(tenant)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tenant", ["a", "A-1_b.c", "7", "a" * 128])
def test_what_can_be_the_name_of_a_tenant_is_taken(tmp_path, tenant):
    store = load(tmp_path, {"default.yaml": DEFAULT, f"tenants/{tenant}.yaml": "extends: default"})
    assert store.get(tenant).name == tenant


def test_names_of_tenants_are_compared_exactly(tmp_path):
    store = load(tmp_path, {"default.yaml": DEFAULT, "tenants/acme.yaml": "extends: default"})
    with pytest.raises(PolicyError, match="unknown tenant 'ACME'"):
        store.get("ACME")


def test_an_unknown_tenant_is_an_error_that_says_what_to_do(tmp_path):
    store = load(tmp_path, {"default.yaml": DEFAULT, "tenants/acme.yaml": "extends: default"})
    with pytest.raises(PolicyError, match=r"unknown tenant 'globex': add tenants/globex\.yaml, or .*unknown_tenant"):
        store.get("globex")


def test_unknown_tenants_get_what_default_names(tmp_path):
    tenants = {"tenants/acme.yaml": "extends: default\nmessage: Acme."}
    to_default = load(tmp_path / "1", {"default.yaml": DEFAULT + "unknown_tenant: default", **tenants})
    to_acme = load(tmp_path / "2", {"default.yaml": DEFAULT + "unknown_tenant: acme", **tenants})
    assert to_default.get("globex").name == "default"
    assert to_acme.get("globex").name == "acme"
    # Neither reaches those who have a policy, or no name.
    assert to_default.get("acme").name == "acme"
    assert to_acme.get(None).name == "default"


def test_unknown_tenants_cannot_get_a_tenant_that_does_not_exist(tmp_path):
    message = refused(
        tmp_path, {"default.yaml": DEFAULT + "unknown_tenant: acmee", "tenants/acme.yaml": "extends: default"}
    )
    assert message.startswith(f"{tmp_path / 'default.yaml'}:6: no tenant 'acmee'")
    assert "did you mean 'acme'?" in message


@pytest.mark.parametrize("file", ["base.yaml", "tenants/acme.yaml"])
def test_only_default_says_what_unknown_tenants_get(tmp_path, file):
    message = refused(tmp_path, {"default.yaml": DEFAULT, file: "extends: default\nunknown_tenant: default"})
    assert message.startswith(f"{tmp_path / file}:2: only default.yaml says")


def test_policies_that_decide_alike_have_one_version(tmp_path):
    store = load(
        tmp_path,
        {
            "default.yaml": DEFAULT,
            "tenants/inherits.yaml": "description: The same.\nextends: default",
            "tenants/copies.yaml": "# The same once more.\n" + DEFAULT.replace("0.5", "0.50"),
            "tenants/repeats.yaml": "extends: default\nrules:\n" + rule("two"),
        },
    )
    assert len({policy.version for policy in store.policies()}) == 1
    assert re.fullmatch("[0-9a-f]{16}", store.get(None).version)


@pytest.mark.parametrize(
    "child",
    [
        "rules:\n" + rule("two", 0.51),
        "rules:\n" + rule("two", action="flag"),
        "rules:\n" + rule("two", more=", labels: [injection]"),
        "rules:\n" + rule("two", more=", message: Other."),
        "rules:\n" + rule("four"),
        "message: Other.",
    ],
)
def test_the_version_changes_with_what_is_decided_or_said(tmp_path, child):
    store = load(tmp_path, {"default.yaml": DEFAULT, "tenants/acme.yaml": "extends: default\n" + child})
    assert store.get("acme").version != store.get(None).version


def test_the_version_changes_with_the_order_of_the_rules(tmp_path):
    turned = "message: Default.\nrules:\n" + rule("two") + rule("one") + rule("three")
    store = load(tmp_path, {"default.yaml": DEFAULT, "tenants/acme.yaml": turned})
    assert store.get("acme").version != store.get(None).version


def test_the_version_of_a_child_changes_with_an_inherited_rule(tmp_path):
    tenant = {"tenants/acme.yaml": "extends: default\nrules:\n" + rule("own")}
    before = load(tmp_path / "1", {"default.yaml": DEFAULT, **tenant}).get("acme")
    after = load(tmp_path / "2", {"default.yaml": DEFAULT.replace("0.5", "0.6", 1), **tenant}).get("acme")
    again = load(tmp_path / "3", {"default.yaml": DEFAULT, **tenant}).get("acme")
    assert before.version != after.version
    assert before.version == again.version


def test_a_policy_reads_only_what_the_detector_gives(tmp_path):
    labels = {"injection": ("injection",), "safety": ("unsafe", "rude")}
    policy = load(tmp_path / "1", {"default.yaml": "rules:\n" + rule("a", more=", labels: [injection]")}).get(None)
    policy.check_heads(labels)
    with pytest.raises(PolicyError, match=r"rule 'a': the detector has no head 'injection'; known: safety"):
        policy.check_heads({"safety": ("unsafe",)})
    with pytest.raises(PolicyError, match=r"no head 'injection'; did you mean 'injections'\?"):
        policy.check_heads({"injections": ("injection",)})
    with pytest.raises(PolicyError, match=r"head 'injection' has no label 'injection'; did you mean 'injected'\?"):
        policy.check_heads({"injection": ("injected",)})


@pytest.mark.parametrize("path", [None, ROOT / "policies"], ids=["packaged", "repository"])
def test_the_policies_that_are_shipped_fit_the_detector_that_is_shipped(path, embedded):
    labels = embedded.labels
    policies = PolicyStore.load(path).policies()
    for policy in policies:
        policy.check_heads(labels)
        assert any(rule.action == "block" for rule in policy.rules)
    assert {policy.name for policy in policies} >= ({"default"} if path is None else {"default", "acme", "globex"})


def test_the_policies_of_the_repository_do_what_their_comments_say():
    store = PolicyStore.load(ROOT / "policies")
    packaged = {rule.name: rule for rule in PolicyStore.load().get(None).rules}
    default, acme, globex = (
        {rule.name: rule for rule in store.get(tenant).rules} for tenant in (None, "acme", "globex")
    )
    assert default == packaged
    assert acme["injection"].threshold < packaged["injection"].threshold
    assert acme["injection"].action == "block"
    assert not any(
        rule.head == "injection" and rule.action == "block" and "input" in rule.stages for rule in globex.values()
    )


@pytest.mark.parametrize("odd", ["tenants/bob.YAML", "tenants/notes.txt", "tenants/eu/acme.yaml"])
def test_a_file_that_would_not_be_read_is_told(policies, odd):
    (policies / odd).parent.mkdir(exist_ok=True)
    (policies / odd).write_text("extends: default\n")
    with pytest.raises(PolicyError, match=r"one \.yaml file a tenant"):
        PolicyStore.load(policies)
