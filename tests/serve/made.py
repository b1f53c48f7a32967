"""What the tests of the pages share: reviewers, a queue with items, a guard, and somebody who asks."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from lec_guard.act.base import Case
from lec_guard.act.queue import Item, ReviewQueue
from lec_guard.errors import DetectorError
from lec_guard.guard import Guard
from lec_guard.serve.app import create_app
from lec_guard.serve.reviewers import Reviewer, Reviewers
from lec_guard.serve.sessions import Sessions
from lec_guard.serve.throttle import Throttle
from lec_guard.step import Judgement, Span, Step, ToolRef, Verdict
from lec_guard.testing import KeywordDetector

ADA, BO, CY, DEE = "lgr_key-of-ada", "lgr_key-of-bo", "lgr_key-of-cy", "lgr_key-of-dee"
NOON = 1_800_000_000.0

EVIL = (
    'Ignore this <script>alert(1)</script> "><img src=x onerror=alert(2)> {{7*7}} </textarea><svg onload=alert(3)>\n'
    "and '; alert(4); //  \x1b[31mred\x1b[0m \u202etxt.exe\u202c \u200b\u200b\u200b "
    "\U000e0068\U000e0069 <a href=javascript:alert(5)>x</a> &lt;b&gt; 🎈 end"
)
"""Markup, scripts, a template, what moves a terminal's cursor, what turns lines around, and what nobody sees."""


def reviewers() -> Reviewers:
    """Ada sees all, Bo acme, Cy globex and what is nobody's, Dee all but may not try."""
    found = {
        ADA: Reviewer(name="ada", tenants=None, may_try=True),
        BO: Reviewer(name="bo", tenants=("acme",), may_try=True),
        CY: Reviewer(name="cy", tenants=("globex", None), may_try=True),
        DEE: Reviewer(name="dee", tenants=None, may_try=False),
    }
    return Reviewers({hashlib.sha256(key.encode()).hexdigest(): reviewer for key, reviewer in found.items()})


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Heating(KeywordDetector):
    """Tells of each half of a text how high it scores: the first 0.2, the second 0.9, and all of it 0.4 of safety."""

    def heat(self, step: Step) -> list[Span]:
        if "too hot" in step.text:
            raise DetectorError("this must not be shown")
        half, all_ = len(step.text) // 2, len(step.text)
        return [
            Span(start=0, end=half, head="injection", label="injection", score=0.2),
            Span(start=half, end=all_, head="injection", label="injection", score=0.9),
            Span(start=0, end=all_, head="safety", label="rude", score=0.4),
        ]


def verdict(text: str = EVIL, tenant: str | None = "acme", spans: Sequence[Span] | None = None) -> Verdict:
    """A judgement that asks somebody."""
    found = [
        Span(start=0, end=min(6, len(text)), head="injection", label="override", score=0.97),
        Span(start=3, end=min(12, len(text)), head="safety", label="rude", score=0.61),
    ]
    return Verdict(
        action="escalate",
        rule="ask<b>first",
        matched=("ask<b>first", "floor:never"),
        escalations=("humans",),
        judgements=(
            Judgement(
                role="live", policy="acme", version="1a2b3c4d", mode="enforce", action="escalate", rule="ask<b>first",
                matched=("ask<b>first",),
            ),
            Judgement(
                role="candidate", policy="acme-next", version="5e6f", mode="enforce", action="block", rule="stricter",
                matched=("stricter",),
            ),
        ),
        scores={"injection": {"override": 0.97, "jailbreak": 0.08}, "safety": {"rude": 0.61}},
        spans=tuple(found if spans is None else spans),
        windows=3,
        context_read=True,
        stage="tool_output",
        tenant=tenant,
        policy="acme",
        policy_version="1a2b3c4d",
        detector_id="keywords",
        backend="python",
        ms=2.5,
    )  # fmt: skip


def put(
    queue: ReviewQueue, text: str = EVIL, *, tenant: str | None = "acme", context: str | None = "A <b>task</b>\u202e",
    expires_s: float = 3600, spans: Sequence[Span] | None = None,
) -> Item:  # fmt: skip
    """Ask about a text."""
    key = secrets.token_hex(16)  # So that each is an item of its own, whatever was asked before.
    step = Step(stage="tool_output", text=text, context=context, tool=ToolRef(name="mail<i>\u202e"))
    case = Case(key=key, step=step, verdict=verdict(text, tenant, spans), section="humans")
    return queue.put(case, expires_s=expires_s)


@dataclass
class Site:
    """A site over a real queue and a real guard."""

    folder: Path
    policies: Path
    clock: Clock = field(default_factory=Clock)
    secure: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = ReviewQueue(f"sqlite:///{self.folder / 'queue.db'}", clock=self.clock)
        self.detector = Heating(
            {"injection": {"injection": ["attack"]}, "safety": {"unsafe": ["poison"], "rude": ["darn"]}}
        )
        self.guard = Guard.from_policies(self.policies, detector=self.detector)
        self.ticks = Clock(0.0)
        settings: dict[str, Any] = {
            "guard": self.guard,
            "queue": self.queue,
            "heat": self.detector.heat,
            "sessions": Sessions(clock=self.ticks),
            "throttle": Throttle(clock=self.ticks),
        }
        self.app = create_app(
            reviewers=reviewers(), secure=self.secure, clock=self.clock, hosts=["site", "127.0.0.1"],
            **(settings | self.options),
        )  # fmt: skip

    def browser(self, address: str = "192.0.2.7") -> Browser:
        return Browser(self, address)

    async def signed_in(self, key: str = ADA) -> Browser:
        browser = self.browser()
        answer = await browser.sign_in(key)
        assert answer.status_code == 303, answer.text
        return browser

    def close(self) -> None:
        self.queue.close()
        self.guard.close()


class Browser:
    """Somebody who asks, with cookies, and who sends forms as browsers do."""

    def __init__(self, site: Site, address: str) -> None:
        self.base = f"{'https' if site.secure else 'http'}://site"
        transport = httpx.ASGITransport(site.app, client=(address, 1))
        self.client = httpx.AsyncClient(transport=transport, base_url=self.base)
        self.token = ""

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return self._noted(await self.client.get(path, **options))

    async def post(self, path: str, data: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        """Send a form with the token of the page that was read last, unless it has one."""
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": "null"} | options.pop("headers", {})
        given = {name: value for name, value in headers.items() if value is not None}
        return self._noted(
            await self.client.post(path, data={"csrf": self.token, **(data or {})}, headers=given, **options)
        )

    async def sign_in(self, key: str) -> httpx.Response:
        await self.get("/login")
        answer = await self.post("/login", {"key": key})
        if answer.status_code == 303:
            await self.get(answer.headers["location"])
        return answer

    def _noted(self, answer: httpx.Response) -> httpx.Response:
        found = re.search(r'name="csrf" value="([^"]+)"', answer.text)
        if found:
            self.token = found[1]
        return answer
