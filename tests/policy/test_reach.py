"""Where policies may reach, and in which spellings somebody could try to reach further."""

from __future__ import annotations

import pytest

from lec_guard import PolicyError
from lec_guard.policy.reach import check_url, inside
from tests.policy.made import resolved, rule, rules

DATABASES = ("postgresql", "postgresql+psycopg")


def refusal(url: str, *hosts: str, schemes: tuple[str, ...] = ("https",)) -> str:
    with pytest.raises(PolicyError) as caught:
        check_url(url, hosts, "p.yaml:3:5", schemes)
    message = str(caught.value)
    assert message.startswith("p.yaml:3:5: ")
    return message.removeprefix("p.yaml:3:5: ")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://hooks.example.com/x?y=z", "hooks.example.com"),
        ("https://HOOKS.Example.COM", "hooks.example.com"),
        ("HTTPS://hooks.example.com", "hooks.example.com"),
        ("https://hooks.example.com:443", "hooks.example.com"),
        ("https://hooks.example.com:", "hooks.example.com"),
        ("https://hooks.example.com:8443", "hooks.example.com:8443"),
        ("https://hooks.example.com", "hooks.example.com:443"),
        ("https://a.example.com", "*.example.com"),
        ("https://a.b.example.com", "*.example.com"),
        ("https://a.example.com:8443", "*.example.com:8443"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://10.0.0.5/hook", "10.0.0.5"),
        ("https://[2001:db8::1]/hook", "[2001:db8::1]"),
        ("https://[2001:db8::1]:8443/hook", "[2001:db8::1]:8443"),
        ("http://localhost:8000", "localhost:8000"),
        ("http://127.0.0.1", "127.0.0.1"),
        ("http://[::1]:9000", "[::1]:9000"),
    ],
)
def test_a_listed_host_is_reached(url, host):
    check_url(url, ["elsewhere.example.org", host], "here")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://hooks.example.com", ""),
        ("https://hooks.example.com.evil.org", "hooks.example.com"),
        ("https://evil-hooks.example.com", "hooks.example.com"),
        ("https://example.com", "*.example.com"),
        ("https://evilexample.com", "*.example.com"),
        ("https://a.example.com.evil.org", "*.example.com"),
        ("https://hooks.example.com:8443", "hooks.example.com"),
        ("https://hooks.example.com", "hooks.example.com:8443"),
        ("https://hooks.example.com:0", "hooks.example.com"),
        ("https://a.example.com:8443", "*.example.com"),
        ("https://evil.org/hooks.example.com", "hooks.example.com"),
        ("https://evil.org?hooks.example.com", "hooks.example.com"),
        ("https://evil.org#@hooks.example.com", "hooks.example.com"),
        ("https://evil.org/@hooks.example.com", "hooks.example.com"),
        ("https://[2001:db8::2]", "[2001:db8::1]"),
        ("http://localhost", "localhost:8000"),
    ],
)
def test_any_other_host_is_refused_and_the_list_is_named(url, host):
    assert "is not on the operator's list; add it to allowed_hosts in default.yaml" in refusal(url, host)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com",
        "ftp://hooks.example.com",
        "file:///etc/passwd",
        "gopher://hooks.example.com/x",
        "//hooks.example.com",
        "hooks.example.com",
        "javascript:alert(1)",
        "http://10.0.0.5",
    ],
)
def test_only_https_is_spoken_with_others(url):
    message = refusal(url, "hooks.example.com", "10.0.0.5", "hooks.example.com:80")
    assert message in ("must begin with https://", "not a URL with a host")


@pytest.mark.parametrize(
    "url",
    [
        "https://user@hooks.example.com",
        "https://user:word@hooks.example.com",
        "https://@hooks.example.com",
        "https://:@hooks.example.com",
        "https://hooks.example.com@evil.org",
        "https://hooks.example.com:443@evil.org",
        "https://evil.org:x@hooks.example.com",
    ],
)
def test_a_user_name_or_a_password_is_refused(url):
    assert "no user name or password in a URL" in refusal(url, "hooks.example.com", "evil.org")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.org\\@hooks.example.com",
        "https://hooks.example.com\\.evil.org",
        "https:\\\\hooks.example.com",
        "https://hooks.exa\tmple.com",
        "https://hooks.example.com\n",
        "\nhttps://hooks.example.com",
        " https://hooks.example.com",
        "https://hooks.example.com/a b",
        "https://hooks.example.com\x00.evil.org",
        "https://hooks.example.com\u200b",
        "https://hooks.example.com\u202e",
        "https://",
        "https:///x",
        "https://:443",
        "https:hooks.example.com",
    ],
)
def test_what_two_programs_could_read_differently_is_refused(url):
    assert refusal(url, "hooks.example.com") in ("not a URL with a host", "must begin with https://")


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com:x", "https://hooks.example.com:99999", "https://[::1", "https://a℀b.example.com"]
)
def test_what_is_no_url_is_refused(url):
    assert refusal(url, "hooks.example.com", "*.example.com").startswith("not a URL")


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com.",
        "https://evil%2eorg.example.com",
        "https://evil.org%2f.example.com",
        "https://bücher.example.com",
        "https://\uff48ooks.example.com",
        "https://hooks。example.com",
        "https://ⓗooks.example.com",
        "https://a_b.example.com",
        "https://-a.example.com",
        "https://.example.com",
        "https://a,b.example.com",
        "https://*.example.com",
        "https://\uff11\uff10.0.0.5",
        "https://[v1.example.com]",
    ],
)
def test_a_host_that_could_be_read_as_another_one_is_refused(url):
    assert "is no name of a host" in refusal(url, "*.example.com", "hooks.example.com", "10.0.0.5")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.170.2",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fd00:ec2::254]",
        "[fd00:ec2::254%25eth0]",
        "[fd00:0ec2:0:0::0254]",
        "[fd20:ce::254]",
        "[::ffff:100.100.100.200]",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "metadata",
        "metadata.google.internal",
        "METADATA.google.internal",
        "metadata.goog",
        "instance-data",
    ],
)
def test_where_clouds_keep_credentials_is_never_reached_listed_or_not(host):
    bare = host.lower().replace("%25", "%")
    assert "where clouds keep credentials" in refusal(f"https://{host}/latest", bare, "*.google.internal", "*.254")


@pytest.mark.parametrize(
    "host",
    [
        "2852039166",
        "0xa9fea9fe",
        "0XA9FEA9FE",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "169.254.169.0xfe",
        "127.1",
        "0177.0.0.1",
        "0",
    ],
)
def test_an_address_in_an_odd_spelling_is_refused_listed_or_not(host):
    assert "an address in an odd spelling" in refusal(f"https://{host}", host.lower())
    assert refusal(f"http://{host}", host.lower())


def test_a_name_that_only_looks_like_the_one_of_a_cloud_is_none():
    check_url("https://metadata.example.com", ["metadata.example.com"], "here")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db.example.com/queue",
        "postgresql+psycopg://db.example.com:5432/queue",
        "postgresql://db.example.com/queue?sslmode=verify-full&connect_timeout=5&application_name=guard",
    ],
)
def test_a_listed_database_is_reached(url):
    check_url(url, ["db.example.com"], "here", DATABASES)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("postgresql://db.example.com/queue?host=evil.org", "no 'host' in a database's URL; known: application_name"),
        ("postgresql://db.example.com/queue?sslmode=require&hostaddr=10.0.0.1", "no 'hostaddr'"),
        ("postgresql://db.example.com/queue?HOST=evil.org", "no 'HOST'"),
        ("postgresql://db.example.com/queue?%68ost=evil.org", "no 'host'"),
        ("postgresql://db.example.com/queue?service=x", "no 'service'"),
        ("postgresql://db.example.com/queue?passfile", "no 'passfile'"),
        ("postgresql://db.example.com,evil.org/queue", "is no name of a host"),
        ("postgresql://%2Ftmp/queue", "is no name of a host"),
        ("postgresql:///queue", "not a URL with a host"),
        ("postgresql://me:word@db.example.com/queue", "no user name or password"),
        ("postgresql://db.example.com:5433/queue", "not on the operator's list"),
        ("sqlite:///etc/passwd", "not a URL with a host"),
        ("mysql://db.example.com/queue", "must begin with postgresql:// or postgresql+psycopg://"),
        ("https://db.example.com/queue", "must begin with postgresql:// or postgresql+psycopg://"),
        ("http://localhost/queue", "must begin with postgresql:// or postgresql+psycopg://"),
    ],
)
def test_a_database_elsewhere_is_refused(url, part):
    assert part in refusal(url, "db.example.com", "localhost", schemes=DATABASES)


def test_the_list_of_the_operator_counts_where_a_policy_names_a_url():
    hook = "escalations:\n  desk: {kind: webhook, url: https://hooks.example.com/x, secret: KEY}\n"
    queue = "escalations:\n  desk: {kind: queue, url: postgresql://db.example.com/q}\n"
    asks = rules(rule(action="escalate", escalation="desk"))
    for text, host in ((hook, "hooks.example.com"), (queue, "db.example.com")):
        resolved(text + asks, hosts=[host])
        with pytest.raises(PolicyError, match=r"mine\.yaml:2:3: the host .* is not on the operator's list"):
            resolved(text + asks)
    resolved("escalations: {desk: {kind: queue}}\n" + asks)  # A file of this machine.


@pytest.mark.parametrize("path", ["a", "a/b", "./a", "a//b", "ä/b.json", "...", "a" * 500, "tenantsx/a"])
def test_a_path_below_the_folder_is_taken(tmp_path, path):
    assert inside(tmp_path, path, "here").is_relative_to(tmp_path)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "..", "../x", "a/../../x", "a/..", "a\\b", "..\\x", "C:\\x", "a\0b", "a\nb", "link/x", "deep/link"],
)
def test_a_path_that_leads_out_is_refused(tmp_path, path):
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "policies"
    (folder / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "deep" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(PolicyError, match=r"here: .* must be a path below"):
        inside(folder, path, "here")


@pytest.mark.parametrize("path", ["tenants", "tenants/acme/x.json", "./tenants/acme", "link/x.json"])
def test_the_files_of_a_tenant_are_not_for_others(tmp_path, path):
    (tmp_path / "tenants" / "acme").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "tenants" / "acme")
    with pytest.raises(PolicyError, match=r"here: .* belongs to a tenant"):
        inside(tmp_path, path, "here")
    inside(tmp_path / "tenants" / "acme", "x.json", "here")


def test_links_within_the_folder_are_followed(tmp_path):
    # As Kubernetes mounts them: every name is a link to a link to a folder that is replaced as a whole.
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "own.json").symlink_to("..data/own.json")
    assert inside(tmp_path, "own.json", "here") == tmp_path / "own.json"
