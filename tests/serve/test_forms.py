"""Every form, whatever its page: sent from here, by who is signed in, with their token."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute

from lec_guard.serve.csrf import from_here
from tests.serve.made import ADA, BO, put

POSTED = ["/logout", "/queue/{}/approve", "/queue/{}/refuse", "/queue/{}/edit", "/queue/{}/release", "/try"]
DATA = {"text": "harmless", "reason": "r", "stage": "input"}


def routes(app) -> list[APIRoute]:
    found = []
    for route in app.routes:
        found.extend(route.original_router.routes if hasattr(route, "original_router") else [route])
    return [route for route in found if isinstance(route, APIRoute)]


def test_the_list_of_forms_is_whole(site):
    posted = {route.path.replace("{ticket}", "{}") for route in routes(site.app) if "POST" in route.methods}
    assert posted == {*POSTED, "/login"}


@pytest.mark.parametrize("path", POSTED)
async def test_without_its_token_nothing_happens(site, path):
    item = put(site.queue)
    browser = await site.signed_in()
    other = await site.signed_in(BO)
    for token in ("", "wrong", other.token):
        await browser.get(f"/queue/{item.ticket}")
        answer = await browser.post(path.format(item.ticket), {**DATA, "csrf": token})
        assert answer.status_code == 403
    found = site.queue.get(item.ticket)
    assert found.status == "pending"
    assert found.claimed_by == "ada"
    assert site.detector.seen == []
    assert (await browser.get("/queue")).status_code == 200


ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": None, "Origin": None},
    {"Sec-Fetch-Site": None, "Origin": "null"},
    {"Sec-Fetch-Site": None, "Origin": "http://evil.example"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
]


@pytest.mark.parametrize("path", [*POSTED, "/login"])
async def test_from_elsewhere_nothing_happens(site, path):
    item = put(site.queue)
    browser = await site.signed_in()
    for headers in ELSEWHERE:
        answer = await browser.post(path.format(item.ticket), {**DATA, "key": ADA}, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert site.queue.get(item.ticket).status == "pending"
    assert site.detector.seen == []


@pytest.mark.parametrize("path", POSTED)
async def test_without_a_session_nothing_happens(site, path):
    item = put(site.queue)
    browser = site.browser()
    browser.token = (await site.signed_in()).token
    answer = await browser.post(path.format(item.ticket), DATA)
    assert answer.status_code == 401
    assert site.queue.get(item.ticket).status == "pending"
    assert "<textarea" in answer.text
    assert "harmless" in answer.text


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"headers": {"content-type": "text/plain"}}, 415),
        ({"headers": {"content-type": "multipart/form-data; boundary=x"}}, 415),
        ({"content": b"csrf=%ff"}, 400),
        ({"content": b"nothing"}, 400),
        ({"content": "ü".encode()}, 400),
        ({"content": b"&".join(b"a=1" for _ in range(17))}, 400),
        ({"content": b"text=" + b"a" * 8 * 1024 * 1024}, 413),
    ],
)
async def test_what_is_no_form_of_ours_is_not_read(site, options, status):
    browser = await site.signed_in()
    headers = {
        "Sec-Fetch-Site": "same-origin",
        "content-type": "application/x-www-form-urlencoded",
        **options.get("headers", {}),
    }
    answer = await browser.client.post("/try", headers=headers, content=options.get("content", b"csrf=x"))
    assert answer.status_code == status
    assert "<h1>" in answer.text


@pytest.mark.parametrize(
    ("host", "origin", "secure", "ours"),
    [
        ("127.0.0.1:8731", "http://127.0.0.1:8731", False, True),
        ("127.0.0.1:8731", "http://127.0.0.1:8732", False, False),
        ("127.0.0.1:8731", "http://localhost:8731", False, False),
        ("site", "http://site:80", False, True),
        ("SITE", "https://site", True, True),
        ("site:443", "https://site", True, True),
        ("site", "http://site", True, False),
        ("site", "https://site.evil", True, False),
        ("site", "https://site:port", True, False),
        ("site", "", True, False),
    ],
)
def test_origins(host, origin, secure, ours):
    assert from_here({"host": host, "origin": origin}, secure=secure) is ours
    assert from_here({"host": host, "origin": origin, "sec-fetch-site": "same-origin"}, secure=secure) is ours
