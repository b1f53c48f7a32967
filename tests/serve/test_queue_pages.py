"""The pages of the review queue."""

from __future__ import annotations

import re

import pytest

from lec_guard.act.base import Reply
from lec_guard.act.queue import QueueError
from tests.serve.made import BO, CY, EVIL, put


def links(text: str) -> list[str]:
    return re.findall(r'class="excerpt"><a href="/queue/([^"]+)"', text)


async def test_an_empty_queue_says_so(site):
    answer = await (await site.signed_in()).get("/queue")
    assert "Nothing waits." in answer.text
    assert "<table" not in answer.text


async def test_what_waits_is_listed_oldest_first(site):
    first = put(site.queue, "first")
    site.clock.now += 120
    second = put(site.queue, "second", expires_s=7300)
    site.clock.now += 45
    answer = await (await site.signed_in()).get("/queue")
    assert links(answer.text) == [first.ticket, second.ticket]
    for shown in (">2 min<", ">45 s<", ">57 min<", ">2 h 0 min<", "acme", "tool_output", "mail&lt;i&gt;",
                  "ask&lt;b&gt;first"):  # fmt: skip
        assert shown in answer.text


async def test_what_is_decided_or_late_is_not(site):
    put(site.queue, "late", expires_s=10)
    decided = put(site.queue, "decided")
    site.queue.decide(decided.ticket, Reply(answer="allow", by="bo"))
    site.clock.now += 11
    assert links((await (await site.signed_in()).get("/queue")).text) == []


async def test_a_long_queue_has_pages(site):
    items = [put(site.queue, f"text {at}") for at in range(52)]
    browser = await site.signed_in()
    first = await browser.get("/queue")
    assert len(links(first.text)) == 50
    (more,) = re.findall(r'href="(/queue\?after=[^"]+)"', first.text)
    second = await browser.get(more)
    assert len(links(second.text)) == 2
    assert {*links(first.text), *links(second.text)} == {item.ticket for item in items}
    assert "after=" not in second.text


async def test_nobody_sees_or_decides_what_is_others(site):
    items = {tenant: put(site.queue, f"for {tenant}", tenant=tenant) for tenant in ("acme", "globex", None)}
    for key, own in ((BO, ["acme"]), (CY, ["globex", None])):
        browser = await site.signed_in(key)
        assert set(links((await browser.get("/queue")).text)) == {items[tenant].ticket for tenant in own}
        for tenant, item in items.items():
            if tenant in own:
                continue
            answers = [await browser.get(f"/queue/{item.ticket}")]
            answers += [
                await browser.post(f"/queue/{item.ticket}/{action}", {"text": "other", "reason": ""})
                for action in ("approve", "refuse", "edit", "release")
            ]
            unknown = await browser.get("/queue/unknown")
            assert [answer.status_code for answer in answers] == [404] * 5
            assert {answer.text for answer in answers} == {unknown.text}
            found = site.queue.get(item.ticket)
            assert (found.status, found.claimed_by) == ("pending", None)


async def test_leaving_an_item_lets_go_of_ones_own_alone(site):
    own, next_, foreign = (put(site.queue, text, tenant=tenant) for text, tenant in
                           (("a", "acme"), ("b", "acme"), ("c", "globex")))  # fmt: skip
    site.queue.claim(foreign.ticket, "cy")
    browser = await site.signed_in(BO)
    await browser.get(f"/queue/{own.ticket}")
    assert site.queue.get(own.ticket).claimed_by == "bo"
    assert (await browser.get(f"/queue/{next_.ticket}?leave={own.ticket}")).status_code == 200
    site.queue.claim(own.ticket, "ada")
    for leave in (own.ticket, foreign.ticket, "unknown", "'", next_.ticket):
        assert (await browser.get(f"/queue/{next_.ticket}", params={"leave": leave})).status_code == 200
    assert [site.queue.get(one.ticket).claimed_by for one in (own, foreign, next_)] == ["ada", "cy", "bo"]


async def test_opening_an_item_holds_it(site):
    item = put(site.queue)
    bo = await site.signed_in(BO)
    await bo.get(f"/queue/{item.ticket}")
    assert site.queue.get(item.ticket).claimed_by == "bo"
    ada = await site.signed_in()
    answer = await ada.get(f"/queue/{item.ticket}")
    assert "bo looks at this item and holds it for another 5 min" in answer.text
    assert "/approve" not in answer.text
    assert "bo looks at it" in (await ada.get("/queue")).text
    site.clock.now += 301
    assert "/approve" in (await ada.get(f"/queue/{item.ticket}")).text
    assert site.queue.get(item.ticket).claimed_by == "ada"


async def test_an_item_can_be_left_to_others(site):
    item = put(site.queue)
    browser = await site.signed_in(BO)
    await browser.get(f"/queue/{item.ticket}")
    answer = await browser.post(f"/queue/{item.ticket}/release")
    assert (answer.status_code, answer.headers["location"]) == (303, "/queue?done=release")
    site.queue.claim(item.ticket, "ada")
    assert (await browser.post(f"/queue/{item.ticket}/release")).status_code == 303
    assert site.queue.get(item.ticket).claimed_by == "ada"


async def test_an_item_shows_what_it_is_about(site):
    item = put(site.queue)
    text = (await (await site.signed_in()).get(f"/queue/{item.ticket}")).text
    for shown in ("ask&lt;b&gt;first, floor:never", "humans", "acme <span", "1a2b3c4d", "candidate, does not count",
                  "A &lt;b&gt;task&lt;/b&gt;", 'value="0.9700"', "injection: override 0.97", ">0.61<",
                  "Read in 3"):  # fmt: skip
        assert shown in text
    for hostile in (
        "<script>alert",
        "<img src=x",
        "<svg onload",
        "ask<b>",
        "A <b>task",
        "mail<i>",
        "{{7*7}} </textarea>",
    ):
        assert hostile not in text
    assert text.count("</textarea>") == 1
    assert "mail&lt;i&gt;\\u202e" in text
    assert "\u202e" not in text.partition("<textarea")[0]
    assert "49" not in re.sub(r"\s+", " ", text.partition('aria-label="The text"')[2].partition("</div>")[0])


async def test_texts_of_every_kind_can_be_shown(site):
    browser = await site.signed_in()
    for text in ("", "\n\nleading", "\x00", "\ufffe", "a" * 300_000, "\u202e" * 5000, "a\u200b" * 5000):
        item = put(site.queue, text, context=None)
        assert (await browser.get(f"/queue/{item.ticket}")).status_code == 200
        site.queue.decide(item.ticket, Reply(answer="block", by="ada"))


@pytest.mark.parametrize(
    ("action", "data", "answer", "reason", "edited"),
    [
        ("approve", {}, "allow", None, None),
        ("refuse", {"reason": "  not ours  "}, "block", "not ours", None),
        ("refuse", {"reason": " "}, "block", None, None),
        ("edit", {"text": "harm<b>less\r\n\u202etext"}, "edit", None, "harm<b>less\n\u202etext"),
        ("edit", {"text": "harm<b>less\r\n\u202etext", "seen_only": "1"}, "edit", None, "harm<b>less\ntext"),
    ],
)
async def test_decisions_are_stored(site, action, data, answer, reason, edited):
    item = put(site.queue)
    browser = await site.signed_in(BO)
    await browser.get(f"/queue/{item.ticket}")
    sent = await browser.post(f"/queue/{item.ticket}/{action}", data)
    assert (sent.status_code, sent.headers["location"]) == (303, f"/queue?done={action}")
    found = site.queue.get(item.ticket)
    assert (found.answer, found.reason, found.edited, found.by) == (answer, reason, edited, "bo")
    shown = (await browser.get(sent.headers["location"])).text
    assert 'role="status"' in shown
    assert "Nothing waits." in shown


async def test_the_next_item_follows_that_nobody_holds(site):
    items = [put(site.queue, f"text {at}") for at in range(4)]
    order = [item.ticket for item in site.queue.pending()]
    site.queue.claim(order[2], "bo")
    browser = await site.signed_in()
    await browser.get(f"/queue/{order[1]}")
    assert (await browser.post(f"/queue/{order[1]}/approve")).headers["location"] == f"/queue/{order[3]}?done=approve"
    assert (await browser.post(f"/queue/{order[3]}/refuse")).headers["location"] == f"/queue/{order[0]}?done=refuse"
    assert (await browser.post(f"/queue/{order[0]}/refuse")).headers["location"] == "/queue?done=refuse"
    assert len(items) == 4


async def test_neighbours_are_linked(site):
    for at in range(3):
        put(site.queue, f"text {at}")
    first, second, third = (item.ticket for item in site.queue.pending())
    browser = await site.signed_in()
    text = (await browser.get(f"/queue/{second}")).text
    assert f'rel="prev" href="/queue/{first}?leave={second}"' in text
    assert f'rel="next" href="/queue/{third}?leave={second}"' in text
    assert 'rel="prev"' not in (await browser.get(f"/queue/{first}")).text
    assert 'rel="next"' not in (await browser.get(f"/queue/{third}")).text


async def test_a_second_decision_is_told_and_changes_nothing(site):
    item = put(site.queue)
    browser = await site.signed_in()
    await browser.get(f"/queue/{item.ticket}")
    site.clock.now += 301
    site.queue.decide(item.ticket, Reply(answer="block", by="bo<b>"))
    site.clock.now += 90
    answer = await browser.post(f"/queue/{item.ticket}/edit", {"text": "My <b>careful</b>\r\nedit</textarea>"})
    assert answer.status_code == 409
    assert "bo&lt;b&gt; refused this item, 1 min ago" in answer.text
    assert "\nMy &lt;b&gt;careful&lt;/b&gt;\nedit&lt;/textarea&gt;</textarea>" in answer.text
    assert site.queue.get(item.ticket).answer == "block"
    answer = await browser.post(f"/queue/{item.ticket}/refuse", {"reason": "my reason"})
    assert answer.status_code == 409
    assert "my reason" in answer.text
    again = await browser.get(f"/queue/{item.ticket}")
    assert "has decided: refused" in again.text
    assert "/approve" not in again.text


async def test_a_decision_that_comes_too_late_is_told(site):
    item = put(site.queue, expires_s=60)
    browser = await site.signed_in()
    await browser.get(f"/queue/{item.ticket}")
    site.clock.now += 61
    answer = await browser.post(f"/queue/{item.ticket}/edit", {"text": "kept"})
    assert (answer.status_code, "Too late" in answer.text, "kept" in answer.text) == (409, True, True)
    assert "ran out 1 s ago; nobody decided" in (await browser.get(f"/queue/{item.ticket}")).text
    assert site.queue.get(item.ticket).answer is None


async def test_what_another_holds_is_not_decided(site):
    item = put(site.queue)
    browser = await site.signed_in()
    await browser.get("/queue")
    site.queue.claim(item.ticket, "bo")
    answer = await browser.post(f"/queue/{item.ticket}/approve")
    assert (answer.status_code, "bo holds this item" in answer.text) == (409, True)
    assert site.queue.get(item.ticket).status == "pending"


async def test_a_queue_that_fails_is_not_a_decision(site, monkeypatch):
    item = put(site.queue)
    browser = await site.signed_in()
    await browser.get(f"/queue/{item.ticket}")

    def fail(*args: object) -> None:
        raise QueueError("the database is away")

    monkeypatch.setattr(site.queue, "decide", fail)
    answer = await browser.post(f"/queue/{item.ticket}/edit", {"text": "kept"})
    assert (answer.status_code, "could not store" in answer.text, "kept" in answer.text) == (503, True, True)


@pytest.mark.parametrize(
    ("text", "says"), [("  \r\n", "Nothing is left"), (EVIL.replace("\n", "\r\n"), "You changed nothing")]
)
async def test_an_edit_that_is_none_is_asked_about(site, text, says):
    item = put(site.queue)
    browser = await site.signed_in()
    await browser.get(f"/queue/{item.ticket}")
    answer = await browser.post(f"/queue/{item.ticket}/edit", {"text": text})
    assert (answer.status_code, says in answer.text) == (422, True)
    assert site.queue.get(item.ticket).status == "pending"
    assert '<details id="edit" class="editing" open>' in answer.text


async def test_a_reason_that_is_too_long_is_not_lost(site):
    item = put(site.queue)
    browser = await site.signed_in()
    await browser.get(f"/queue/{item.ticket}")
    answer = await browser.post(f"/queue/{item.ticket}/refuse", {"reason": 'x"' * 600})
    assert answer.status_code == 422
    assert "yours has 1,200" in answer.text
    assert "x&#34;" * 600 in answer.text
    assert site.queue.get(item.ticket).status == "pending"


async def test_there_is_no_such_item(site):
    browser = await site.signed_in()
    for ticket in ("unknown", "a%00b", "a.b", "x" * 200, "a'b", "%F0%9F%8E%88", "%2e%2e%2fx"):
        assert (await browser.get(f"/queue/{ticket}")).status_code == 404
        if ticket != "unknown":
            assert (await browser.get(f"/queue?after={ticket}")).status_code == 404


async def test_messages_are_ours_alone(site):
    browser = await site.signed_in()
    assert "hacked" not in (await browser.get("/queue?done=hacked")).text
    assert "Approved." in (await browser.get("/queue?done=approve")).text


async def test_a_verdict_from_another_version_can_be_decided(site, monkeypatch):
    item = put(site.queue)
    real = site.queue.get

    def newer(ticket: str):
        from dataclasses import replace

        found = real(ticket)
        spans = [{**span, "view": "raw"} for span in found.verdict["spans"]]
        return replace(found, verdict={**found.verdict, "mood": "new", "spans": spans})

    monkeypatch.setattr(site.queue, "get", newer)
    site.queue.claim(item.ticket, "bo")
    assert (await (await site.signed_in()).get(f"/queue/{item.ticket}")).status_code == 200
