"""The server on a line: slow clients, odd requests, idle ones, and an end in good order."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from lec_guard.serve.api.limits import Limits
from lec_guard.testing import SlowDetector
from tests.serve.api.live import live
from tests.serve.api.made import ALL, Site

BODY = json.dumps({"steps": [{"text": "an ATTACK"}]}).encode()


@pytest.fixture
def line(tmp_path, policies, keywords):
    site = Site(tmp_path, policies, keywords, limits=Limits(body_bytes=100_000, read_s=0.5))
    with live(site.app) as url:
        yield url
    site.close()


def raw(url: str, *parts: bytes, pause: float = 0.0, wait: float = 5.0) -> bytes:
    """What comes back for bytes that are sent as they are."""
    found = urlsplit(url)
    with socket.create_connection((found.hostname, found.port), timeout=wait) as opened:
        for part in parts:
            opened.sendall(part)
            time.sleep(pause)
        got = b""
        try:
            while chunk := opened.recv(65_536):
                got += chunk
                if b"\r\n\r\n" in got and b"connection: close" not in got.lower():
                    break
        except (TimeoutError, ConnectionResetError):
            pass
        return got


def head(length: object = len(BODY), *more: str) -> bytes:
    lines = [
        "POST /v1/check HTTP/1.1", "Host: here", f"Authorization: Bearer {ALL}", "Content-Type: application/json",
        f"Content-Length: {length}", *more, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode()


def test_a_body_that_comes_too_slowly_is_given_up(line):
    began = time.monotonic()
    assert raw(line, head(), BODY[:5], wait=10.0).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 5


def test_a_body_in_pieces_is_read_whole(line):
    assert raw(line, head(), BODY[:5], BODY[5:], pause=0.05).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (head(200_000_000), (413,)),
        (head("-1"), (400,)),
        (head("abc"), (400,)),
        (head(len(BODY), "Transfer-Encoding: chunked") + BODY, (400, 408, 422)),  # smuggling: two lengths
        (head(len(BODY), f"Content-Length: {len(BODY) + 1}") + BODY, (400,)),
        (head(len(BODY), "X: " + "a" * 70_000) + BODY, (400, 431)),
        (b"GET /v1/check\r\n\r\n", (400, 405)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400,)),
        (b"POST /v1/check HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n\r\n", (401, 422)),
    ],
    ids=["too long", "negative", "no number", "two lengths", "two others", "huge header", "no version", "tls", "empty"],
)
def test_odd_requests_are_refused_and_the_next_one_is_served(line, request_, statuses):
    got = raw(line, request_)
    assert int(got[9:12]) in statuses, got[:200]
    assert raw(line, head() + BODY).startswith(b"HTTP/1.1 200")


def test_chunks_are_bounded_as_they_come(line):
    chunk = b"%x\r\n" % 50_000 + b" " * 50_000 + b"\r\n"
    sent = head().replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")
    assert raw(line, sent, chunk, chunk, chunk).startswith(b"HTTP/1.1 413")


def test_idle_connections_harm_nobody(line):
    found = urlsplit(line)
    idle = [socket.create_connection((found.hostname, found.port)) for _ in range(300)]
    try:
        assert raw(line, head() + BODY).startswith(b"HTTP/1.1 200")
    finally:
        for one in idle:
            one.close()


def test_what_is_in_flight_is_finished_before_the_end(tmp_path, policies, keywords):
    site = Site(tmp_path, policies, SlowDetector(keywords, 0.5))
    answers = []
    with live(site.app) as url:
        asking = threading.Thread(target=lambda: answers.append(raw(url, head() + BODY)))
        asking.start()
        time.sleep(0.2)
        site.stopping.set()
        assert raw(url, head() + BODY).startswith(b"HTTP/1.1 503")
    asking.join()
    assert answers[0].startswith(b"HTTP/1.1 200")
    site.close()


async def test_many_at_once_each_have_their_own_answer(line):
    async with httpx.AsyncClient(base_url=line, headers={"Authorization": f"Bearer {ALL}"}) as client:
        texts = [f"an ATTACK {n}" if n % 3 == 0 else f"hello {n}" for n in range(60)]
        found = await asyncio.gather(*(client.post("/v1/check", json={"steps": [{"text": one}]}) for one in texts))
    actions = [one.json()["results"][0]["action"] for one in found]
    assert actions == ["block" if n % 3 == 0 else "allow" for n in range(60)]
