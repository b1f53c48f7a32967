"""How the application is run, from the command on."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import uvicorn
import yaml

from lec_guard import LayerDetector
from lec_guard.act.queue import ReviewQueue
from lec_guard.cli import terminal
from lec_guard.serve.reviewers import Reviewers
from lec_guard.serve.server import AnnouncingServer, NoQueries, configured, is_local
from tests.conftest import ROOT
from tests.serve.made import Site
from tests.test_cli import run


@pytest.fixture
def keys(tmp_path):
    made = run("serve", "--new-key", "ada")
    (tmp_path / "keys.yaml").write_text(f"reviewers:\n{made.out}", encoding="utf-8")
    return tmp_path / "keys.yaml"


@pytest.fixture
def configs(monkeypatch, keywords):
    """What the command would run."""
    found: list[uvicorn.Config] = []

    def take(self: uvicorn.Server) -> None:
        found.append(self.config)
        self.started = True

    monkeypatch.setattr(uvicorn.Server, "run", take)
    monkeypatch.setattr(LayerDetector, "load", lambda source=None: keywords)
    return found


def test_a_key_is_printed_once_and_goes_into_the_file(keys):
    made = run("serve", "--new-key", "bo")
    assert made.exit_code == 0
    key = re.search(r"lgr_\S+", made.err)[0]
    assert key not in made.out
    with keys.open("a", encoding="utf-8") as file:
        file.write(made.out)
    assert Reviewers.read(keys).of(key).name == "bo"
    assert [one["name"] for one in yaml.safe_load(keys.read_text())["reviewers"]] == ["ada", "bo"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--keys FILE"),
        (["--keys", "none.yaml"], "none.yaml: No such file"),
        (["--keys", "KEYS", "--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines"),
        (["--keys", "KEYS", "--host", "review.example.com"], "--behind-proxy"),
        (["--keys", "KEYS", "--host", "::"], "--tls-cert and --tls-key"),
        (["--keys", "KEYS", "--tls-cert", "c.pem"], "both --tls-cert and --tls-key"),
        (["--keys", "KEYS", "--tls-key", "k.pem"], "both --tls-cert and --tls-key"),
        (["--keys", "KEYS", "--tls-cert", "c.pem", "--tls-key", "k.pem"], "c.pem: there is no such file"),
        (["--keys", "KEYS", "--queue", "redis://127.0.0.1"], "redis"),
        (["--keys", "KEYS", "--policies", "none"], "none"),
        (["--new-key", "a\nb"], "a reviewer's name"),
    ],
)
def test_wrong_usage_starts_nothing(keys, configs, words, says):
    found = run("serve", *[keys if word == "KEYS" else word for word in words])
    assert (found.exit_code, found.out) == (2, "")
    assert says in found.err
    assert configs == []


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(terminal, "find_spec", lambda name: None if name == "uvicorn" else object())
    found = run("serve", "--new-key", "ada")
    assert found.exit_code == 2
    assert "needs uvicorn; run: pip install 'lec-guard[serve]'" in found.err


async def answer(config: uvicorn.Config, host: str, path: str = "/login") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(config.app), base_url=f"http://{host}") as client:
        return await client.get(path)


async def test_alone_it_listens_to_this_machine(keys, configs, policies, tmp_path):
    queue = f"sqlite:///{tmp_path / 'queue.db'}"
    assert run("serve", "--keys", keys, "--policies", policies, "--queue", queue).exit_code == 0
    (config,) = configs
    assert (config.host, config.port, config.proxy_headers, config.server_header) == ("127.0.0.1", 8731, False, False)
    for host, status in (("127.0.0.1:8731", 200), ("localhost", 200), ("[::1]:1", 200), ("review.example.com", 400)):
        found = await answer(config, host)
        assert found.status_code == status
        assert "strict-transport-security" not in found.headers
    services = config.app.state.services
    assert services.guard.policies.tenants()
    assert not services.secure
    assert isinstance(services.queue, ReviewQueue)
    services.guard.close()


def test_policies_that_ask_can_be_tried_without_the_key_of_the_application(keys, configs, monkeypatch, tmp_path):
    monkeypatch.delenv("LEC_GUARD_KEY", raising=False)
    rule = {"name": "ask", "stages": ["input"], "head": "injection", "threshold": 0.5, "action": "escalate"}
    policy = {
        "message": "No.",
        "rules": [{**rule, "escalation": "humans"}],
        "escalations": {"humans": {"kind": "queue", "on_timeout": "block"}},
    }
    (tmp_path / "asking.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    found = run("serve", "--keys", keys, "--policies", tmp_path / "asking.yaml", "--queue", "sqlite:///queue.db")
    assert (found.exit_code, found.err) == (0, "")
    configs[0].app.state.services.guard.close()


async def test_behind_a_proxy_it_answers_to_its_name_by_https(keys, configs, tmp_path):
    keys.write_text(keys.read_text().replace("may_try: true", "may_try: false"))
    queue = f"sqlite:///{tmp_path / 'queue.db'}"
    words = ("--host", "192.0.2.1", "--behind-proxy", "--allow-host", "Review.example.com")
    assert run("serve", "--keys", keys, "--queue", queue, *words).exit_code == 0
    (config,) = configs
    assert config.proxy_headers
    for host, status in (("review.example.com", 200), ("192.0.2.1", 200), ("127.0.0.1", 400)):
        found = await answer(config, host)
        assert found.status_code == status
        assert "strict-transport-security" in found.headers
    # Nobody may try, so nothing is loaded for it.
    assert config.app.state.services.guard is None


def test_a_server_that_does_not_start_is_a_failure(keys, configs, monkeypatch, tmp_path):
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: None)
    keys.write_text(keys.read_text().replace("may_try: true", "may_try: false"))
    assert run("serve", "--keys", keys, "--queue", f"sqlite:///{tmp_path / 'queue.db'}").exit_code == 1


def test_the_command_serves(keys, tmp_path):
    keys.write_text(keys.read_text().replace("may_try: true", "may_try: false"))
    command = [sys.executable, "-m", "lec_guard.cli", "serve", "--keys", "keys.yaml", "--port", "0", "--queue",
               "sqlite:///queue.db"]  # fmt: skip
    served = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    )
    try:
        url = re.fullmatch(r"lec-guard: (http://127\.0\.0\.1:\d+)\n", served.stdout.readline())[1]
        with httpx.Client(base_url=url, trust_env=False) as client:
            assert "Your key" in client.get("/login?secret=1").text
            assert client.get("/queue").status_code == 303
    finally:
        served.send_signal(signal.SIGINT)
        out, err = served.communicate(timeout=30)
    assert "/login" in out
    assert "secret" not in out + err
    assert "Traceback" not in err


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def test_it_speaks_https(tmp_path, policies):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    site = Site(tmp_path, policies, secure=True)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    announced, urls = threading.Event(), []

    def announce(url: str) -> None:
        urls.append(url)
        announced.set()

    server = AnnouncingServer(configured(site.app, host="127.0.0.1", port=0, tls_cert=cert, tls_key=key), announce)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert announced.wait(20)
        with httpx.Client(verify=ssl.create_default_context(cafile=cert), trust_env=False) as client:
            found = client.get(f"{urls[0]}/login")
        assert found.headers["strict-transport-security"]
        assert "__Host-lec_guard_login" in found.headers["set-cookie"]
    finally:
        server.should_exit = True
        thread.join(20)
        site.close()
    assert urls[0].startswith("https://127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("LOCALHOST", True),
        ("0.0.0.0", False), ("::", False), ("192.168.0.1", False), ("localhost.evil.example", False), ("", False),
    ],
)  # fmt: skip
def test_addresses_of_this_machine(host, local):
    assert is_local(host) is local


def test_the_access_log_has_no_queries():
    record = logging.LogRecord("uvicorn.access", 20, "", 1, '%s - "%s %s HTTP/%s" %d', None, None)
    record.args = ("127.0.0.1:1", "GET", "/queue?after=x&y", "1.1", 200)
    assert NoQueries().filter(record)
    assert record.getMessage() == '127.0.0.1:1 - "GET /queue HTTP/1.1" 200'


def test_the_page_of_the_docs_is_right(configs, embedded, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "review.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LayerDetector, "load", lambda source=None: embedded)
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    for name in ("cert.pem", "key.pem"):
        Path(name).touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    Path("shown.yaml").write_text(shown, encoding="utf-8")
    assert Reviewers.read("shown.yaml").any_may_try
    commands = re.findall(r"^lec-guard (serve .*)$", page, flags=re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        words, _, file = command.partition(" >> ")
        found = run(*shlex.split(words))
        assert found.exit_code == 0, found.err
        if file:
            Path(file).write_text(f"reviewers:\n{found.out}", encoding="utf-8")
            assert found.out.splitlines()[2:] == shown.splitlines()[3:]
    assert len(configs) == 3
    for config in configs:
        if config.app.state.services.guard is not None:
            config.app.state.services.guard.close()
    assert set(re.findall(r"(?<=`)--[a-z-]+", page)) <= set(re.findall(r"--[a-z-]+", run("serve", "--help").out))
