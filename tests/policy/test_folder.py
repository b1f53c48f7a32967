"""Where policies lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lec_guard import PolicyError
from lec_guard.policy.folder import BUILTIN, Tenant, check_name, files_of, list_folder


def written(folder: Path, *files: str) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("", encoding="utf-8")
    return folder


def problems(folder: Path, *files: str) -> list[str]:
    """What is told of a folder with these files, without the path of the folder."""
    told = list_folder(written(folder, "default.yaml", *files)).problems
    assert all(line.startswith(f"{folder}/") for line in told)
    return [line.removeprefix(f"{folder}/") for line in told]


def test_a_folder_has_shared_policies_and_those_of_tenants(tmp_path):
    listing = list_folder(
        written(
            tmp_path,
            "default.yaml", "floor.yml", "strict.yaml", "cases.yaml", "README.md", "policy.schema.json", "cases/x.yaml",
            "tenants/acme.yaml", "tenants/b.yml",
            "tenants/c/policy.yaml", "tenants/c/next.yaml", "tenants/c/cases.yaml", "tenants/c/own.json",
            "tenants/c/bundle/x.yaml",
        )
    )  # fmt: skip
    assert (listing.root, listing.default, listing.problems, listing.unclear) == (tmp_path, "default", (), {})
    assert listing.shared == {
        "builtin": BUILTIN,
        "default": tmp_path / "default.yaml",
        "floor": tmp_path / "floor.yml",
        "strict": tmp_path / "strict.yaml",
    }
    tenants = tmp_path / "tenants"
    assert listing.tenants == {
        "acme": Tenant(tenants / "acme.yaml", tmp_path),
        "b": Tenant(tenants / "b.yml", tmp_path),
        "c": Tenant(tenants / "c" / "policy.yaml", tenants / "c", {"next": tenants / "c" / "next.yaml"}),
    }
    assert [name for name, _ in files_of(listing)] == [*listing.shared, "acme", "b", "c", "c/next"]


def test_a_tenant_finds_its_own_policies_by_name(tmp_path):
    tenants = list_folder(
        written(tmp_path, "default.yaml", "tenants/a.yaml", "tenants/c/policy.yaml", "tenants/c/next.yaml")
    ).tenants
    flat, folder = tenants["a"], tenants["c"]
    assert flat.own("a", "a") == flat.file
    assert flat.own("a", "policy") is None  # It has none of that name: a shared one is meant.
    assert folder.own("c", "c") == folder.own("c", "policy") == folder.file
    assert folder.own("c", "next") == tmp_path / "tenants" / "c" / "next.yaml"
    assert folder.own("c", "default") is None


def test_no_file_is_opened(tmp_path, monkeypatch):
    written(tmp_path, "default.yaml", "tenants/acme.yaml")
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("opened"))
    assert list(list_folder(tmp_path).tenants) == ["acme"]


def test_one_file_is_the_default_and_there_is_nothing_else(tmp_path):
    listing = list_folder(written(tmp_path, "mine.yaml", "default.yaml", "tenants/acme.yaml") / "mine.yaml")
    assert (listing.default, listing.root, listing.tenants) == ("mine", tmp_path, {})
    assert listing.shared == {"mine": tmp_path / "mine.yaml", "builtin": BUILTIN}


@pytest.mark.parametrize("file", ["builtin.yaml", "a b.yaml", "-x.yaml"])
def test_one_file_needs_a_name_that_a_policy_can_have(tmp_path, file):
    with pytest.raises(PolicyError, match=r"is taken by the packaged policy|file name may have letters"):
        list_folder(written(tmp_path, file) / file)


def test_where_nothing_is_or_no_default_that_is_told(tmp_path):
    with pytest.raises(PolicyError, match="nothing: no such policy file or folder"):
        list_folder(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PolicyError, match="pipe: no such policy file or folder"):
        list_folder(tmp_path / "pipe")
    with pytest.raises(PolicyError, match=r"no default\.yaml here"):
        list_folder(written(tmp_path, "tenants/acme.yaml"))


MAIN = "tenants/c/policy.yaml"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["acme.yaml", "tenants/acme.yaml"], "tenants/acme.yaml: {0}/acme.yaml has the same name"),
        (["default.yml"], "default.yml: {0}/default.yaml has the same name"),
        (["tenants/default.yaml"], "tenants/default.yaml: {0}/default.yaml has the same name"),
        (["tenants/acme.yaml", "tenants/acme.yml"], "tenants/acme.yml: {0}/tenants/acme.yaml is the same tenant's"),
        (["tenants/a.yaml", "tenants/a/policy.yaml"], "tenants/a.yaml: {0}/tenants/a/policy.yaml is the same tenant's"),
        ([MAIN, "tenants/c/policy.yml"], "tenants/c/policy.yml: {0}/tenants/c/policy.yaml has the same name"),
        ([MAIN, "tenants/c/c.yaml"], "tenants/c/c.yaml: {0}/tenants/c/policy.yaml has the same name"),
        ([MAIN, "tenants/c/default.yaml"], "tenants/c/default.yaml: {0}/default.yaml has the same name"),
        (["builtin.yaml"], "builtin.yaml: the name 'builtin' is taken by the packaged policy"),
        (["tenants/builtin.yaml"], "tenants/builtin.yaml: {1} has the same name"),
        (["tenants/c/policy.yaml", "tenants/c/builtin.yaml"], "tenants/c/builtin.yaml: the name 'builtin' is taken"),
        (["tenants/c/next.yaml"], "tenants/c: no policy.yaml here; it is what the tenant 'c' gets"),
        (["tenants/c/notes.txt"], "tenants/c: no policy.yaml here"),
        (["tenants/notes.txt"], "tenants/notes.txt: not a policy"),
        (["tenants/acme.YAML"], "tenants/acme.YAML: not a policy"),
        (["tenants/acme"], "tenants/acme: not a policy"),
        (["tenants/a b.yaml"], "tenants/a b.yaml: a policy's file name may have letters"),
        (["tenants/a b/policy.yaml"], "tenants/a b: a policy's file name may have letters"),
        (["tenants/-a.yaml"], "tenants/-a.yaml: a policy's file name may have letters"),
        (["tenants/acme\n.yaml"], "tenants/acme\n.yaml: a policy's file name may have letters"),
        (["tenants/ä.yaml"], "tenants/ä.yaml: a policy's file name may have letters"),
        (["ä.yaml"], "ä.yaml: a policy's file name may have letters"),
        # Overlooked, they would be no floor and no default.
        (["Floor.yaml"], "Floor.yaml: call it floor.yaml; capitals count"),
        (["FLOOR.YML"], "FLOOR.YML: call it floor.yml; capitals count"),
        (["floor.YAML"], "floor.YAML: call it floor.yaml; capitals count"),
        (["Default.yaml"], "Default.yaml: call it default.yaml; capitals count"),
        (["strict.Yaml"], "strict.Yaml: call it strict.yaml; capitals count"),
        (["tenants/c/policy.yaml", "tenants/c/Policy.yaml"], "tenants/c/Policy.yaml: call it policy.yaml"),
    ],
)  # fmt: skip
def test_what_can_be_no_policy_or_whose_nobody_knows_is_told(tmp_path, files, told):
    (line,) = problems(tmp_path, *files)
    assert line.startswith(told.format(tmp_path, BUILTIN))


@pytest.mark.parametrize(
    ("files", "unclear"),
    [
        (["acme.yaml", "tenants/acme.yaml"], "acme"),
        (["tenants/acme.yaml", "tenants/acme.yml"], "acme"),
        (["tenants/c/policy.yaml", "tenants/c/policy.yml"], "c"),
        (["tenants/c/policy.yaml", "tenants/c/next.yaml", "tenants/c/next.yml"], "c"),
        (["tenants/c/notes.txt"], "c"),
        (["FLOOR.yaml"], "floor"),
        (["default.yml"], "default"),
    ],
)
def test_whose_policy_is_unclear_is_told(tmp_path, files, unclear):
    listing = list_folder(written(tmp_path, "default.yaml", *files))
    assert listing.unclear == {unclear: listing.problems[0]}


def test_tenants_that_differ_by_capitals_are_two(tmp_path):
    assert problems(tmp_path, "tenants/acme.yaml", "tenants/Acme.yaml") == []
    assert set(list_folder(tmp_path).tenants) == {"acme", "Acme"}


@pytest.mark.parametrize(
    "file", [".floor.yaml.swp", ".hidden.yaml", "tenants/.acme.yaml.swp", "tenants/.git/x", "tenants/c/.policy.yaml"]
)
def test_what_editors_and_mounts_hide_is_overlooked(tmp_path, file):
    assert problems(tmp_path, "tenants/c/policy.yaml", file) == []
    assert list(list_folder(tmp_path).tenants) == ["c"]


@pytest.mark.parametrize("name", ["floor.yaml", "strict.yaml", "tenants/c/next.yaml"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link", "link to itself"])
def test_what_ends_like_a_policy_and_is_no_file_is_told(tmp_path, name, kind):
    written(tmp_path, "default.yaml", "tenants/c/policy.yaml")
    odd(tmp_path / name, kind)
    assert problems(tmp_path) == [f"{name}: ends like a policy, and is no file that can be read"]


@pytest.mark.parametrize("kind", ["pipe", "broken link", "link to itself"])
def test_a_tenants_file_that_is_none_is_left_for_who_reads_it(tmp_path, kind):
    written(tmp_path, "default.yaml", "tenants/b.yaml")
    odd(tmp_path / "tenants" / "acme.yaml", kind)
    assert problems(tmp_path) == []
    assert set(list_folder(tmp_path).tenants) == {"acme", "b"}


def odd(file: Path, kind: str) -> None:
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(file if kind == "link to itself" else "nowhere")


def test_links_to_files_and_folders_are_followed(tmp_path):
    # As Kubernetes mounts a folder: what is seen are links into one that is hidden.
    written(tmp_path / "..2026", "default.yaml", "floor.yaml")
    written(tmp_path / "elsewhere", "policy.yaml")
    (tmp_path / "..data").symlink_to("..2026")
    for name in ("default.yaml", "floor.yaml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    (tmp_path / "tenants").mkdir()
    (tmp_path / "tenants" / "c").symlink_to("../elsewhere")
    listing = list_folder(tmp_path)
    assert set(listing.shared) == {"builtin", "default", "floor"}
    assert set(listing.tenants) == {"c"}


@pytest.mark.parametrize("kind", ["file", "broken link", "pipe"])
def test_tenants_that_are_no_folder_are_not_overlooked(tmp_path, kind):
    written(tmp_path, "default.yaml")
    (written(tmp_path, "tenants") if kind == "file" else odd(tmp_path / "tenants", kind))
    with pytest.raises(PolicyError, match="tenants: is no folder that can be read"):
        list_folder(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_told(tmp_path):
    written(tmp_path, "default.yaml", "tenants/c/policy.yaml")
    (tmp_path / "tenants" / "c").chmod(0)
    assert problems(tmp_path) == ["tenants/c: can't be read: Permission denied"]


@pytest.mark.parametrize("tenant", ["a", "A-1_b.c", "7", "a..b", "a" * 128])
def test_what_can_be_the_name_of_a_tenant(tenant):
    assert check_name(tenant) == tenant


@pytest.mark.parametrize(
    "tenant",
    [
        "../x", "a/b", "a\\b", ".", "..", "", "acme\n", "\nacme", " acme", "acme ", "-x", "a" * 129,
        "é", "\u0430", "a\x00", "a\u200b", "\uff11", 5, b"acme", ["acme"], True, None, 1.5,
    ],
)  # fmt: skip
def test_what_cannot_be_the_name_of_a_tenant(tenant):
    with pytest.raises(PolicyError, match="can't be the name of a tenant") as caught:
        check_name(tenant)
    assert str(caught.value).isprintable()


def test_a_giant_name_is_not_repeated():
    with pytest.raises(PolicyError) as caught:
        check_name("x" * 1_000_000)
    assert len(str(caught.value)) < 400
