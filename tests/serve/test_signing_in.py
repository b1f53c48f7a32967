"""Signing in and out."""

from __future__ import annotations

import re

import pytest

from tests.serve.made import ADA, DEE, Site, put

PAGES = ["/queue", "/queue/some-ticket", "/try"]


@pytest.mark.parametrize("path", PAGES)
async def test_nobody_sees_anything_before(site, path):
    put(site.queue)
    answer = await site.browser().get(path)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login"


async def test_a_key_opens_a_session(site):
    browser = site.browser()
    answer = await browser.sign_in(ADA)
    assert (answer.status_code, answer.headers["location"]) == (303, "/queue")
    assert "Sign out" in (await browser.get("/queue")).text
    assert (await browser.get("/")).headers["location"] == "/queue"
    assert (await browser.get("/login")).headers["location"] == "/queue"


async def test_its_cookie_is_for_this_site_and_no_script(site):
    answer = await site.browser().sign_in(ADA)
    (cookie,) = [one for one in answer.headers.get_list("set-cookie") if one.startswith("lec_guard=")]
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {"httponly", "path=/", "samesite=strict"}


async def test_by_https_it_goes_nowhere_else(tmp_path, policies):
    site = Site(tmp_path, policies, secure=True)
    browser = site.browser()
    answer = await browser.sign_in(ADA)
    assert answer.status_code == 303
    for cookie in answer.headers.get_list("set-cookie"):
        assert cookie.startswith("__Host-lec_guard")
        assert "; Secure" in cookie
    assert (await browser.get("/queue")).status_code == 200
    site.close()


@pytest.mark.parametrize("key", ["", "wrong", ADA.upper(), "x" * 1000, "\u202e", "' or 1=1 --"])
async def test_a_wrong_key_opens_nothing(site, key):
    browser = site.browser()
    answer = await browser.sign_in(key)
    assert answer.status_code == 403
    assert "Nobody has this key." in answer.text
    assert "lec_guard" not in browser.client.cookies
    assert (await browser.get("/queue")).status_code == 303


async def test_every_sign_in_has_a_new_session_and_ends_the_old_one(site):
    old = (await site.signed_in()).client.cookies["lec_guard"]
    browser = site.browser()
    await browser.get("/login")
    browser.client.cookies.set("lec_guard", old, domain="site.local", path="/")
    answer = await browser.post("/login", {"key": ADA})
    (new,) = re.findall(r"lec_guard=([^;]+);", answer.headers["set-cookie"])
    assert new != old
    other = site.browser()
    other.client.cookies.set("lec_guard", old)
    assert (await other.get("/queue")).status_code == 303


async def test_an_id_that_somebody_else_chose_is_never_taken(site):
    browser = site.browser()
    browser.client.cookies.set("lec_guard", "chosen-by-somebody")
    answer = await browser.sign_in(ADA)
    assert "chosen-by-somebody" not in answer.headers["set-cookie"]
    other = site.browser()
    other.client.cookies.set("lec_guard", "chosen-by-somebody")
    assert (await other.get("/queue")).status_code == 303


async def test_signing_out_ends_it_here_and_on_the_server(site):
    browser = await site.signed_in()
    kept = browser.client.cookies["lec_guard"]
    assert (await browser.post("/logout")).headers["location"] == "/login"
    assert "lec_guard" not in browser.client.cookies
    other = site.browser()
    other.client.cookies.set("lec_guard", kept)
    assert (await other.get("/queue")).status_code == 303


async def test_a_session_ends(site):
    browser = await site.signed_in()
    site.ticks.now += 31 * 60
    assert (await browser.get("/queue")).status_code == 303


async def test_the_form_needs_the_token_of_its_cookie(site):
    browser, other = site.browser(), site.browser()
    await browser.get("/login")
    await other.get("/login")
    assert (await browser.post("/login", {"key": ADA, "csrf": other.token})).status_code == 403
    assert (await browser.post("/login", {"key": ADA, "csrf": ""})).status_code == 403
    bare = site.browser()
    bare.token = other.token
    assert (await bare.post("/login", {"key": ADA})).status_code == 403


async def test_two_windows_with_the_form_are_fine(site):
    browser = site.browser()
    await browser.get("/login")
    first = browser.token
    await browser.get("/login")
    assert (await browser.post("/login", {"key": ADA, "csrf": first})).status_code == 303


async def test_keys_cannot_be_tried_for_ever(site):
    browser = site.browser()
    for _ in range(5):
        assert (await browser.sign_in("wrong")).status_code == 403
    answer = await browser.sign_in(ADA)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "20"
    assert "Try again in 20 s" in answer.text
    assert (await site.browser("192.0.2.99").sign_in(ADA)).status_code == 303
    site.ticks.now += 20
    assert (await browser.sign_in(ADA)).status_code == 303


async def test_no_key_gets_into_the_log(site, caplog):
    await site.browser().sign_in("a-wrong-key")
    assert "192.0.2.7" in caplog.text
    assert "a-wrong-key" not in caplog.text


async def test_without_a_queue_trying_is_the_first_page(tmp_path, policies):
    site = Site(tmp_path, policies, options={"queue": None})
    browser = await site.signed_in(DEE)
    assert (await browser.get("/")).headers["location"] == "/try"
    assert (await browser.get("/queue")).status_code == 404
    site.close()
