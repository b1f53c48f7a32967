"""A webhook is asked over HTTP, and believed only what is signed for this asking."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import json
import re
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from pathlib import Path

import httpcore
import pytest

from lec_guard import UnsupportedValueError
from lec_guard.act.base import Case, Escalator, Reply
from lec_guard.act.webhook import Breaker, CircuitOpen, Webhook, WebhookError
from tests.act.asked import FORMS, KEY, asker, case
from tests.act.webhook.service import (
    SECRET,
    Behaviour,
    Service,
    breaks,
    drips,
    floods,
    hangs,
    reply,
    running,
    send,
    status,
)

Ask = Callable[[Escalator, Case], Reply]


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as found:
        yield found


@pytest.fixture(params=FORMS)
def ask(request: pytest.FixtureRequest) -> Ask:
    return asker(request.param)


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@pytest.fixture
def hook(service: Service, tls: ssl.SSLContext) -> Webhook:
    return Webhook(url=service.url, secret=SECRET, timeout_s=5, tls=tls)


def test_what_it_decides_comes_back(service, hook, ask):
    service.does(
        reply(by="ann", reason="fine"), reply(decision="block", reason="no"), reply(decision="edit", text="héllo")
    )
    assert ask(hook, case()) == Reply(answer="allow", by="ann", reason="fine")
    assert ask(hook, case()) == Reply(answer="block", reason="no")
    assert ask(hook, case()) == Reply(answer="edit", text="héllo")


def test_it_is_told_all_that_is_needed_and_can_check_who_tells_it(service, hook, ask):
    service.does(reply())
    before = time.time()
    ask(hook, case("a text with \ud800 and ü"))
    (asked,) = service.asked
    assert asked.is_signed
    assert abs(int(asked.headers["x-lec-guard-timestamp"]) - before) < 3
    assert asked.headers["idempotency-key"] == asked.said["id"]
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["host"] == f"127.0.0.1:{service.port}"
    said = dict(asked.said)
    assert re.fullmatch(r"[0-9a-f]{32}", said.pop("id"))
    issued, expires = said.pop("issued"), said.pop("expires")
    assert int(before) <= issued <= before + 3
    assert issued + 5 <= expires <= issued + 6
    assert said == {
        "version": 1,
        "key": KEY,
        "section": "reviewer",
        "stage": "input",
        "tool": "search",
        "tenant": "acme",
        "policy": "acme",
        "policy_version": "0123456789abcdef",
        "rule": "injection",
        "matched": ["injection-flag", "injection"],
        "scores": {"injection": {"injection": 0.9}},
        "spans": [{"start": 0, "end": 4, "head": "injection", "label": "injection", "score": 0.9}],
        "text": "a text with \ud800 and ü",
        "context": "Be kind.",
    }


def test_each_asking_has_an_id_of_its_own(service, hook, ask):
    service.does(reply())
    ask(hook, case())
    ask(hook, case())
    assert len({asked.said["id"] for asked in service.asked}) == 2


LIES: dict[str, Behaviour] = {
    "another secret": reply(secret=b"another secret of 32 bytes......."),
    "no signature": reply(headers={"X_Lec_Guard_Signature": ""}),
    "an empty version": reply(headers={"X_Lec_Guard_Signature": "v1="}),
    "a signature that is no ASCII": reply(headers={"X_Lec_Guard_Signature": "v1=é"}),
    "no timestamp": reply(headers={"X_Lec_Guard_Timestamp": ""}),
    "another timestamp": reply(off_s=7),
    "a timestamp that is no number": reply(headers={"X_Lec_Guard_Timestamp": "soon"}),
    "signed long ago": reply(late_s=400),
    "signed in the future": reply(late_s=-400),
    "signed for another request": reply(signed_for="0" * 32),
    "changed on the way": reply(decision="block", tampered=lambda body: body.replace(b"block", b"allow")),
    "another key": reply(key="f" * 32),
    "another id": reply(id="f" * 32),
    "no key": reply(raw=lambda body: json.dumps({**json.loads(body), "key": None}).encode()),
    "an unknown decision": reply(decision="maybe"),
    "a decision in capitals": reply(decision="ALLOW"),
    "no decision": reply(decision=None),
    "a list of decisions": reply(decision=["allow"]),
    "an edit without a text": reply(decision="edit"),
    "an edit of no text": reply(decision="edit", text=7),
    "a text that is no edit": reply(text="other"),
    "somebody who is no name": reply(by={"name": "ann"}),
    "a field that nobody knows": reply(unless="monday"),
    "two decisions": reply(raw=lambda body: body[:-1] + b', "decision": "block"}'),
    "two answers": reply(raw=lambda body: body + body),
    "no JSON": reply(raw=lambda body: b"allow"),
    "no UTF-8": reply(raw=lambda body: b"\xff" + body),
    "no object": reply(raw=lambda body: b'["allow"]'),
    "nothing": reply(raw=lambda body: b""),
    "very deep": reply(raw=lambda body: b"[" * 60_000),
    "not a number": reply(raw=lambda body: body[:-1] + b', "by": NaN}'),
    "says it is compressed": reply(headers={"Content_Encoding": "gzip"}),
    "a bomb": reply(raw=lambda body: gzip.compress(b" " * 10_000_000 + body), headers={"Content_Encoding": "gzip"}),
    "a secret bomb": reply(raw=lambda body: gzip.compress(b" " * 10_000_000 + body)),
    "created": status(201),
    "no content": status(204),
    "not found": status(404),
    "failed": status(500),
    "led elsewhere": status(307, Location="http://169.254.169.254/latest/meta-data/"),
    "led to itself": status(307, Location="/hook"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_an_error_and_nobody_asks_twice(service, hook, ask, lie):
    service.does(LIES[lie], reply())
    with pytest.raises(WebhookError):
        ask(hook, case())
    assert len(service.asked) == 1


def test_an_answer_counts_once(service, hook, ask):
    kept: list[tuple[int, bytes, dict[str, str]]] = []

    def honest(handler, asked):
        reply()(handler, asked)
        kept.append(handler.sent)

    def replay(handler, _):
        code, body, headers = kept[0]
        send(handler, code, body, **headers)

    service.does(honest, replay)
    assert ask(hook, case()).answer == "allow"
    with pytest.raises(WebhookError):
        ask(hook, case())
    assert len(service.asked) == 2


def test_what_is_sent_after_an_answer_is_not_read(service, hook, ask):
    def twice(handler, asked):
        reply(decision="block")(handler, asked)
        reply(decision="allow")(handler, asked)

    service.does(twice, reply(decision="block", reason="second"))
    assert ask(hook, case()).answer == "block"
    assert ask(hook, case()) == Reply(answer="block", reason="second")


def test_no_error_tells_the_text_or_what_the_service_said(service, ask, tls):
    behaviours = [reply(decision="xyzzy"), reply(xyzzy=1), reply(raw=lambda body: b"xyzzy"), status(400), junk]
    service.does(*behaviours)
    hook = Webhook(url=service.url, secret=SECRET, timeout_s=5, tls=tls, attempts=1, breaker=Breaker(failures=99))
    asked = case("".join(["plu", "gh"]))
    for _ in behaviours:
        with pytest.raises(WebhookError) as caught:
            ask(hook, asked)
        told = "".join(traceback.format_exception(caught.value))
        assert "xyzzy" not in told
        assert "plugh" not in told
        assert SECRET.decode() not in told


def junk(handler, _):
    handler.wfile.write(b"xyzzy xyzzy xyzzy\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5000;",
    ],
    ids=["status", "header", "body", "chunk"],
)
def test_a_server_that_drips_is_cut_off_at_the_limit(service, ask, tls, head):
    service.does(drips(service, head))
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ask(Webhook(url=service.url, secret=SECRET, timeout_s=0.3, tls=tls), case())
    assert 0.25 < time.monotonic() - began < 3


def test_a_server_that_hangs_is_late(service, ask, tls):
    service.does(hangs(service))
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ask(Webhook(url=service.url, secret=SECRET, timeout_s=0.2, tls=tls), case())
    assert 0.15 < time.monotonic() - began < 3
    assert len(service.asked) == 1


def test_the_limit_is_one_for_all_attempts(service, ask, tls):
    service.does(status(503, Retry_After="0"), status(503, Retry_After="0"), hangs(service))
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ask(Webhook(url=service.url, secret=SECRET, timeout_s=0.4, tls=tls), case())
    assert time.monotonic() - began < 3
    assert len(service.asked) == 3


@pytest.mark.parametrize("with_length", [True, False])
def test_a_reply_of_ten_megabytes_is_cut_off_while_it_is_read(service, hook, ask, with_length):
    service.does(floods(service, 10_000_000, with_length=with_length))
    with pytest.raises(WebhookError, match="longer than 65536"):
        ask(hook, case())
    # Beyond the 64 KiB, what lies in the buffers of both sockets.
    assert service.sent < 6_000_000
    assert len(service.asked) == 1


def test_as_many_bytes_are_read_as_may_be(service, ask, tls):
    size = 2000
    hook = Webhook(url=service.url, secret=SECRET, timeout_s=5, tls=tls, reply_bytes=size)
    service.does(reply(raw=lambda body: body.ljust(size)), reply(raw=lambda body: body.ljust(size + 1)))
    assert ask(hook, case()).answer == "allow"
    with pytest.raises(WebhookError, match="longer"):
        ask(hook, case())


@pytest.mark.parametrize("first", [status(502), status(503), status(504), status(429), breaks, junk])
def test_what_may_pass_is_asked_again_under_the_same_id(service, hook, ask, first):
    service.does(first, reply())
    assert ask(hook, case()).answer == "allow"
    one, other = service.asked
    assert one.headers["idempotency-key"] == other.headers["idempotency-key"]
    assert one.body == other.body
    assert one.is_signed
    assert other.is_signed


@pytest.mark.parametrize("failing", [status(503), breaks])
def test_attempts_are_counted(service, ask, tls, failing):
    service.does(failing)
    with pytest.raises(WebhookError):
        ask(Webhook(url=service.url, secret=SECRET, timeout_s=5, tls=tls, attempts=2), case())
    assert len(service.asked) == 2


def test_it_waits_as_long_as_it_is_told_to(service, hook, ask):
    service.does(status(429, Retry_After="1"), reply())
    began = time.monotonic()
    assert ask(hook, case()).answer == "allow"
    assert 0.95 < time.monotonic() - began < 3


def test_it_waits_until_the_time_that_it_is_told(service, hook, ask):
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
    service.does(status(503, Retry_After=format_datetime(at, usegmt=True)), reply())
    began = time.monotonic()
    assert ask(hook, case()).answer == "allow"
    assert 0.8 < time.monotonic() - began < 4


def test_it_does_not_wait_for_what_comes_too_late(service, hook, ask):
    service.does(status(429, Retry_After="60"), reply())
    began = time.monotonic()
    with pytest.raises(WebhookError, match="429"):
        ask(hook, case())
    assert time.monotonic() - began < 3
    assert len(service.asked) == 1


@pytest.mark.parametrize("value", ["soon", "-1", "1.5e3", "Mon, 99 Xyz 2020"])
def test_a_pause_that_can_not_be_read_is_one_of_its_own(service, hook, ask, value):
    service.does(status(429, Retry_After=value), reply())
    assert ask(hook, case()).answer == "allow"


def test_nobody_there_is_an_error(ask, tls):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        hook = Webhook(url=f"http://127.0.0.1:{port}", secret=SECRET, timeout_s=5, tls=tls)
        with pytest.raises(WebhookError, match="ConnectError"):
            ask(hook, case())


def test_after_five_failures_it_is_left_alone_until_it_is_tried_again(service, ask, tls):
    now = [0.0]
    breaker = Breaker(clock=lambda: now[0])
    hook = Webhook(url=service.url, secret=SECRET, timeout_s=5, tls=tls, breaker=breaker)
    service.does(status(500))
    for _ in range(5):
        with pytest.raises(WebhookError, match="500"):
            ask(hook, case())
    with pytest.raises(CircuitOpen):
        ask(hook, case())
    assert len(service.asked) == 5
    now[0] = 31.0
    service.does(reply())
    assert ask(hook, case()).answer == "allow"
    assert ask(hook, case()).answer == "allow"


def test_late_answers_open_the_circuit_too(service, ask, tls):
    service.does(hangs(service))
    hook = Webhook(url=service.url, secret=SECRET, timeout_s=0.05, tls=tls, breaker=Breaker(failures=2))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            ask(hook, case())
    with pytest.raises(CircuitOpen):
        ask(hook, case())


def test_a_text_that_is_too_long_is_an_error_and_no_failure_of_the_service(service, ask, tls):
    service.does(reply())
    hook = Webhook(url=service.url, secret=SECRET, timeout_s=5, tls=tls, breaker=Breaker(failures=1))
    with pytest.raises(WebhookError, match="too long"):
        ask(hook, case("a" * 5_000_000))
    assert service.asked == []
    assert ask(hook, case()).answer == "allow"


async def test_an_asking_that_is_cancelled_ends_and_counts_for_nothing(service, tls):
    service.does(hangs(service))
    hook = Webhook(url=service.url, secret=SECRET, timeout_s=5, tls=tls, breaker=Breaker(failures=1))
    asking = asyncio.create_task(hook.aask(case()))
    while not service.asked:  # noqa: ASYNC110 - another thread is asked
        await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    service.does(reply())
    assert (await hook.aask(case())).answer == "allow"


async def test_many_ask_at_once(service, hook):
    def own(handler, asked):
        reply(decision="edit", text=asked.said["text"].upper())(handler, asked)

    service.does(own)
    texts = [f"text {at}" for at in range(8)]
    sync = [asyncio.to_thread(hook.ask, case(text)) for text in texts]
    replies = await asyncio.gather(*sync, *(hook.aask(case(text)) for text in texts))
    assert [one.text for one in replies] == [text.upper() for text in texts] * 2


def test_proxies_of_the_environment_are_not_used(service, hook, ask, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    service.does(reply())
    assert ask(hook, case()).answer == "allow"


def test_a_name_is_looked_up_once_a_connection_and_what_was_looked_at_is_connected_to(service, ask, tls):
    asked_for: list[tuple[str, int]] = []
    found = [["127.0.0.1"], ["127.0.0.1", "169.254.169.254"], ["127.0.0.1"]]

    def resolve(host, port):
        asked_for.append((host, port))
        return found[len(asked_for) - 1]

    service.does(reply())
    url = f"http://localhost:{service.port}/hook"
    hook = Webhook(url=url, secret=SECRET, timeout_s=5, tls=tls, resolve=resolve)
    assert ask(hook, case()).answer == "allow"
    assert asked_for == [("localhost", service.port)]
    assert service.asked[0].headers["host"] == f"localhost:{service.port}"
    # The name leads elsewhere from now on.
    with pytest.raises(WebhookError, match="no webhook may reach"):
        ask(hook, case())
    assert len(asked_for) == 2
    assert len(service.asked) == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"])
def test_a_name_that_leads_where_no_webhook_is_is_not_connected_to(ask, tls, address, monkeypatch):
    def never(*_: object) -> None:
        pytest.fail("connected")

    hook = Webhook(url="https://hooks.example.com", secret=SECRET, timeout_s=5, tls=tls, resolve=lambda *_: [address])
    monkeypatch.setattr("socket.create_connection", never)
    monkeypatch.setattr("anyio.connect_tcp", never)
    with pytest.raises(WebhookError, match="no webhook may reach"):
        ask(hook, case())


def test_an_address_where_nobody_answers_leaves_time_for_the_next_one(service, ask, tls, monkeypatch):
    tried: list[tuple[str, float]] = []
    connect, aconnect = httpcore.SyncBackend.connect_tcp, httpcore.AnyIOBackend.connect_tcp

    def refuse(address: str, limit_s: float) -> None:
        tried.append((address, limit_s))
        # What hangs or refuses there is no address that tests may reach.
        if address == "10.9.8.7":
            raise httpcore.ConnectTimeout

    def sync(self, host, port, timeout, *rest):
        refuse(host, timeout)
        return connect(self, host, port, timeout, *rest)

    async def not_sync(self, host, port, limit_s, *rest):
        refuse(host, limit_s)
        return await aconnect(self, host, port, limit_s, *rest)

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", sync)
    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", not_sync)
    service.does(reply())
    url = f"http://localhost:{service.port}"
    hook = Webhook(
        url=url, secret=SECRET, timeout_s=5, tls=tls, attempts=1, resolve=lambda *_: ["10.9.8.7", "127.0.0.1"]
    )
    assert ask(hook, case()).answer == "allow"
    assert [address for address, _ in tried] == ["10.9.8.7", "127.0.0.1"]
    assert 2 < tried[0][1] <= 2.5
    assert 4 < tried[1][1] <= 5


def test_a_look_up_that_hangs_is_late(ask, tls):
    stop = threading.Event()
    hook = Webhook(
        url="https://hooks.example.com", secret=SECRET, timeout_s=0.2, tls=tls, resolve=lambda *_: stop.wait() and []
    )
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ask(hook, case())
    assert time.monotonic() - began < 3
    stop.set()


def test_a_name_that_leads_nowhere_is_an_error(ask, tls):
    def resolve(*_: object) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    hook = Webhook(url="https://hooks.example.com", secret=SECRET, timeout_s=5, tls=tls, resolve=resolve, attempts=1)
    with pytest.raises(WebhookError, match="gaierror"):
        ask(hook, case())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key, and a certificate for `localhost`."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_the_certificate_is_verified_for_the_name_in_the_url(certificate, ask, tls):
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate)
    asked_for: list[str | None] = []
    own.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with running(own) as service:
        service.does(reply())

        def asked(host: str, trusted: ssl.SSLContext) -> Reply:
            hook = Webhook(
                url=f"https://{host}:{service.port}/",
                secret=SECRET,
                timeout_s=5,
                tls=trusted,
                attempts=1,
                resolve=lambda *_: ["127.0.0.1"],
            )
            return ask(hook, case())

        assert asked("localhost", trusting).answer == "allow"
        assert asked_for == ["localhost"]
        with pytest.raises(WebhookError, match="ConnectError"):
            asked("127.0.0.1", trusting)
        with pytest.raises(WebhookError, match="ConnectError"):
            asked("localhost", tls)
        assert len(service.asked) == 1


def test_tls_that_verifies_nothing_is_refused():
    lax = ssl.create_default_context()
    lax.check_hostname = False
    with pytest.raises(UnsupportedValueError, match="certificates"):
        Webhook(url="https://hooks.example.com", secret=SECRET, timeout_s=5, tls=lax)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "http://localhost.example.com/",
        "ftp://127.0.0.1/",
        "https://",
        "https://user:pass@hooks.example.com/",
        "https://hooks.example.com/#part",
        "https://hooks.example.com:99999999/",
        "no url",
    ],
)
def test_an_address_of_no_use_is_refused(url):
    with pytest.raises(UnsupportedValueError):
        Webhook(url=url, secret=SECRET, timeout_s=5)


@pytest.mark.parametrize(
    "argument",
    [
        {"secret": b"short"},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
        {"attempts": 0},
        {"attempts": 11},
    ],
)
def test_arguments_of_no_use_are_refused(argument):
    with pytest.raises(UnsupportedValueError):
        Webhook(**{"url": "https://hooks.example.com", "secret": SECRET, "timeout_s": 5, **argument})


def test_a_webhook_that_is_closed_asks_nobody(service, hook, ask):
    service.does(reply())
    hook.close()
    hook.close()
    with pytest.raises(WebhookError, match="closed"):
        ask(hook, case())
    assert service.asked == []


def test_it_shows_no_secret(hook):
    assert "secret" not in repr(hook).lower()
