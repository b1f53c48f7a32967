"""What holds for every answer."""

from __future__ import annotations

import httpx

from lec_guard.serve.headers import CONTENT_POLICY
from tests.serve.made import Site, put

ALL = ["/", "/login", "/queue", "/try", "/static/page.css", "/static/page.js", "/static/none", "/none", "/docs",
       "/openapi.json", "/redoc", "/logout", "/queue/none"]  # fmt: skip


async def test_every_answer_has_them(site):
    browsers = (site.browser(), await site.signed_in())
    for answer in [await browser.get(path) for path in ALL for browser in browsers]:
        assert answer.headers["content-security-policy"] == CONTENT_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in answer.headers
        assert "server" not in answer.headers


async def test_there_is_nothing_else(site):
    browser = await site.signed_in()
    for path in ("/docs", "/redoc", "/openapi.json", "/static/../app.py", "/static/%2e%2e/app.py", "/static/"):
        assert (await browser.get(path)).status_code == 404


def test_nothing_foreign_and_nothing_inline_is_allowed():
    assert CONTENT_POLICY.startswith("default-src 'none';")
    assert "unsafe" not in CONTENT_POLICY
    assert "*" not in CONTENT_POLICY


async def test_by_https_it_stays_https(tmp_path, policies):
    site = Site(tmp_path, policies, secure=True)
    assert (await site.browser().get("/login")).headers["strict-transport-security"] == "max-age=31536000"
    site.close()


async def test_it_answers_to_its_names_alone(site):
    browser = site.browser()
    for host in ("site", "SITE:8731", "127.0.0.1:1"):
        assert (await browser.client.get("/login", headers={"host": host})).status_code == 200
    for host in ("evil.example", "site.evil.example", "", "[::1]:80", "site:80:80", "site:x"):
        answer = await browser.client.get("/login", headers={"host": host})
        assert answer.status_code == 400
        assert "content-security-policy" in answer.headers


async def test_two_names_are_none(site):
    answer = await site.browser().client.get("/login", headers=[("host", "site"), ("host", "site")])
    assert answer.status_code == 400


async def test_a_failure_shows_nothing_of_itself(site, caplog, monkeypatch):
    item = put(site.queue)
    browser = await site.signed_in()

    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("SECRET of a step")

    monkeypatch.setattr(site.queue, "get", fail)
    answer = await browser.get(f"/queue/{item.ticket}")
    assert answer.status_code == 500
    assert "content-security-policy" in answer.headers
    assert "went wrong" in answer.text
    for shown in (answer.text, caplog.text):
        assert "SECRET" not in shown
        assert "Traceback" not in shown
    assert "RuntimeError" in caplog.text
    assert "queue_pages.py" in caplog.text


async def test_the_static_files_need_nobody(site):
    assert isinstance(answer := await site.browser().get("/static/page.js"), httpx.Response)
    assert "javascript" in answer.headers["content-type"]
