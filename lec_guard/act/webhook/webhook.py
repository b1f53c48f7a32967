"""Another service decides whether a step may pass."""

from __future__ import annotations

import asyncio
import math
import secrets
import ssl
import time
from email.utils import parsedate_to_datetime

import httpx

from lec_guard.act.base import Case, Escalator, Reply
from lec_guard.act.webhook.addresses import Resolver, is_this_machine, system_resolver
from lec_guard.act.webhook.connect import FAILURES, AsyncTransport, Deadline, Names, Transport
from lec_guard.act.webhook.errors import WebhookError
from lec_guard.act.webhook.letter import read_reply, write_request
from lec_guard.act.webhook.signing import SIGNATURE_HEADER, TIMESTAMP_HEADER, check_reply, sign_request
from lec_guard.breaker import Breaker
from lec_guard.errors import UnsupportedValueError

_SHORTEST = 32
_MOST_ATTEMPTS = 10

_AGAIN = frozenset({429, 502, 503, 504})
"""Statuses that say "later"; any other but 200 is an answer, and it is no."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0

_random = secrets.SystemRandom()


class Webhook(Escalator):
    """Asks a service over HTTP, and believes only what is signed with the secret that both have.

    A request is a POST of JSON (see `letter`), signed as `sign_request` says; its header `Idempotency-Key` is the id
    of the asking, which all attempts have in common and no two askings. A reply is JSON with `id`, `key`, `decision`
    (`allow`, `block` or `edit`), `text` of an edit, and if it likes `by` and `reason`; it is signed as `sign_reply`
    says. Anything else is an error, and so is a redirect.

    What is asked again within the time limit: where no connection came about or one broke, and statuses 429, 502, 503
    and 504, after as long as `Retry-After` says or else after a random pause that may double each time (full jitter,
    Brooker, "Exponential Backoff and Jitter", 2015). No proxy of the environment is used.

    One object serves all threads and event loops. Each asking has connections of its own, which end with it.

    Args:
        url: The service's address. https, or http to this machine. The operator's list of hosts is the caller's to
            heed; what the name leads to is checked here, on each connection.
        secret: At least 32 secret bytes.
        timeout_s: Seconds for an asking with all its attempts, at most.
        attempts: How often it is asked at most.
        tolerance_s: By how many seconds the clocks of both sides may differ.
        reply_bytes: Bytes of the longest reply that is read.
        tls: How certificates are verified, for example with an authority of the operator's own; None for the usual
            authorities, or those that the environment variables SSL_CERT_FILE and SSL_CERT_DIR name.
        resolve: What looks names up.
        breaker: What leaves the service alone after failures; None for five in a row and half a minute.

    Raises:
        UnsupportedValueError: If an argument is of no use.
    """

    def __init__(
        self,
        *,
        url: str,
        secret: bytes,
        timeout_s: float,
        attempts: int = 3,
        tolerance_s: float = 300.0,
        reply_bytes: int = 65_536,
        tls: ssl.SSLContext | None = None,
        resolve: Resolver = system_resolver,
        breaker: Breaker | None = None,
    ) -> None:
        self._url = _checked(url)
        if len(secret) < _SHORTEST:
            raise UnsupportedValueError(f"the secret of a webhook has {len(secret)} bytes; give {_SHORTEST} or more")
        if not (math.isfinite(timeout_s) and timeout_s > 0 and 1 <= attempts <= _MOST_ATTEMPTS):
            raise UnsupportedValueError(f"a webhook needs some time, and 1 to {_MOST_ATTEMPTS} attempts")
        if tls is not None and not (tls.verify_mode == ssl.CERT_REQUIRED and tls.check_hostname):
            raise UnsupportedValueError("a webhook must verify certificates, and for whom they are")
        self._secret = secret
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._tolerance_s = tolerance_s
        self._reply_bytes = reply_bytes
        self._tls = httpx.create_ssl_context() if tls is None else tls
        self._names = Names(resolve)
        self._breaker = Breaker() if breaker is None else breaker
        self._closed = False

    def ask(self, case: Case) -> Reply:
        """Ask the service.

        Args:
            case: The step, and the judgement that asks.

        Returns:
            What the service decided.

        Raises:
            TimeoutError: If there was no answer in time.
            CircuitOpen: If it failed so often that it is not asked.
            WebhookError: If it could not be asked, or its reply counts for nothing.
        """
        asking = self._begin(case)
        transport = Transport(self._names, asking.deadline, self._tls)
        with (
            self._breaker.call(),
            httpx.Client(transport=transport, trust_env=False, timeout=self._timeout_s) as client,
        ):
            while True:
                try:
                    with client.stream("POST", self._url, content=asking.sent, headers=asking.attempt()) as response:
                        asking.accept(response)
                        for part in response.iter_raw():
                            asking.take(part)
                    return asking.reply(response)
                except (_Later, *FAILURES) as error:
                    pause_s = asking.pause_s(error)
                time.sleep(pause_s)

    async def aask(self, case: Case) -> Reply:
        """`ask`, without blocking the event loop."""
        asking = self._begin(case)
        transport = AsyncTransport(self._names, asking.deadline, self._tls)
        with self._breaker.call():
            try:
                async with (
                    asyncio.timeout(asking.deadline.left),
                    httpx.AsyncClient(transport=transport, trust_env=False, timeout=self._timeout_s) as client,
                ):
                    while True:
                        try:
                            async with client.stream(
                                "POST", self._url, content=asking.sent, headers=asking.attempt()
                            ) as response:
                                asking.accept(response)
                                async for part in response.aiter_raw():
                                    asking.take(part)
                            return asking.reply(response)
                        except (_Later, *FAILURES) as error:
                            pause_s = asking.pause_s(error)
                        await asyncio.sleep(pause_s)
            except TimeoutError:
                raise asking.late() from None

    def close(self) -> None:
        """Ask no more; what is being asked goes on to its end."""
        self._closed = True

    def _begin(self, case: Case) -> _Asking:
        if self._closed:
            raise WebhookError("the webhook is closed")
        return _Asking(
            case,
            secret=self._secret,
            timeout_s=self._timeout_s,
            attempts=self._attempts,
            tolerance_s=self._tolerance_s,
            reply_bytes=self._reply_bytes,
        )


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise UnsupportedValueError("the address of a webhook is no URL") from None
    if not parsed.host or parsed.userinfo or parsed.fragment or not 0 < (parsed.port or 443) < 65_536:
        raise UnsupportedValueError("the address of a webhook has a host and perhaps a port, no user and no fragment")
    if parsed.scheme != "https" and not (parsed.scheme == "http" and is_this_machine(parsed.host)):
        raise UnsupportedValueError("the address of a webhook must begin with https://")
    return parsed


class _Later(Exception):
    """The service asks to be asked again.

    Args:
        status: What it said.
        after_s: Seconds after which; None where it does not say.
    """

    def __init__(self, status: int, after_s: float | None) -> None:
        super().__init__(f"the webhook answered with status {status}")
        self.after_s = after_s


class _Asking:
    """One asking: what is sent, and what came of it. The sync and the async form only differ in how they wait."""

    def __init__(
        self, case: Case, *, secret: bytes, timeout_s: float, attempts: int, tolerance_s: float, reply_bytes: int
    ) -> None:
        self.deadline = Deadline(timeout_s)
        self._id = secrets.token_hex(16)
        self._key = case.key
        self.sent = write_request(case, request_id=self._id, issued=time.time(), timeout_s=timeout_s)
        self._secret = secret
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._tolerance_s = tolerance_s
        self._reply_bytes = reply_bytes
        self._made = 0
        self._body = bytearray()

    def attempt(self) -> dict[str, str]:
        """Begin an attempt; its headers. All attempts send the same, each signed when it begins."""
        self._made += 1
        self._body.clear()
        timestamp = int(time.time())
        return {
            "Accept": "application/json",
            # A few bytes could stand for millions.
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Content-Type": "application/json",
            "Idempotency-Key": self._id,
            "User-Agent": "lec-guard",
            TIMESTAMP_HEADER: str(timestamp),
            SIGNATURE_HEADER: sign_request(self._secret, timestamp, self.sent),
        }

    def accept(self, response: httpx.Response) -> None:
        """Refuse what need not be read."""
        if response.status_code in _AGAIN:
            raise _Later(response.status_code, _retry_after(response.headers.get("Retry-After")))
        if response.status_code != 200:
            raise WebhookError(f"the webhook answered with status {response.status_code}")
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise WebhookError("the reply is compressed, which was not asked for")

    def take(self, part: bytes) -> None:
        """Take a part of the reply, as long as it may go on."""
        self._body += part
        if len(self._body) > self._reply_bytes:
            raise WebhookError(f"the reply is longer than {self._reply_bytes} bytes")

    def reply(self, response: httpx.Response) -> Reply:
        """What was decided, now that the reply is here."""
        body = bytes(self._body)
        check_reply(
            self._secret,
            timestamp=response.headers.get(TIMESTAMP_HEADER),
            signature=response.headers.get(SIGNATURE_HEADER),
            request_id=self._id,
            body=body,
            now=time.time(),
            tolerance_s=self._tolerance_s,
        )
        return read_reply(body, request_id=self._id, key=self._key)

    def pause_s(self, error: Exception) -> float:
        """For how many seconds to wait before the next attempt, after one that failed.

        Raises:
            TimeoutError: If the time is over.
            WebhookError: If there is none, or no time for it.
        """
        left = self.deadline.left
        if left <= 0:
            raise self.late() from None
        if isinstance(error, _Later):
            failure, after_s = WebhookError(str(error)), error.after_s
        else:
            # By its kind alone: what it says may be the server's words.
            failure, after_s = WebhookError(f"the webhook can't be reached: {type(error).__name__}"), None
        if after_s is None:
            after_s = _random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self._made - 1)))
        if self._made >= self._attempts or after_s >= left:
            raise failure from None
        return after_s

    def late(self) -> TimeoutError:
        """What it means that the time is over."""
        return TimeoutError(f"the webhook did not answer within {self._timeout_s} s")


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3); None where nothing is said that can be read."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None
