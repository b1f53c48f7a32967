"""The pages in a real browser: nothing of an attack runs, and all of it works without scripts too."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn

from lec_guard.act.base import Reply
from lec_guard.serve.server import AnnouncingServer, configured
from tests.conftest import POLICIES, write_policies
from tests.serve.made import ADA, EVIL, Site, put

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail("there is no chromium, and CI has to have one")
        pytest.skip("there is no chromium on the PATH")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@dataclass
class Served:
    """The site, as it is served to browsers.

    Attributes:
        site: The site.
        url: Where it is.
        cookies: Those of ada, who is signed in.
    """

    site: Site
    url: str
    cookies: object = None

    def put(self, text: str = EVIL, **options):
        return put(self.site.queue, text, **options)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    site = Site(folder, write_policies(folder / "policies", POLICIES))
    site.clock.now = time.time()
    announced, urls = threading.Event(), []

    def announce(url: str) -> None:
        urls.append(url)
        announced.set()

    server: uvicorn.Server = AnnouncingServer(configured(site.app, host="127.0.0.1", port=0), announce)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert announced.wait(20)
    yield Served(site, urls[0])
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
    site.close()


@dataclass
class Watch:
    """What a page did besides what it should."""

    page: object
    dialogs: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def watching(chromium, served, **options) -> Iterator[Watch]:
    context = chromium.new_context(storage_state=served.cookies, **options)
    context.set_default_timeout(10_000)
    watch = Watch(context.new_page())

    def dismiss(dialog) -> None:
        watch.dialogs.append(dialog.message)
        dialog.dismiss()

    watch.page.on("dialog", dismiss)
    watch.page.on("console", lambda message: watch.console.append(message.text))
    watch.page.on("pageerror", lambda error: watch.console.append(str(error)))
    watch.page.on("request", lambda request: watch.requests.append(request.url))
    if served.cookies is None:
        sign_in(watch.page, served)
        served.cookies = context.storage_state()
    yield watch
    context.close()
    assert watch.dialogs == []
    assert watch.console == []
    assert [url for url in watch.requests if not url.startswith(f"{served.url}/")] == []


def sign_in(page, served, key: str = ADA) -> None:
    page.goto(f"{served.url}/login")
    page.get_by_label("Your key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/queue")


@pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
def watch(request, chromium, served):
    with watching(chromium, served, java_script_enabled=request.param) as found:
        yield found


@pytest.fixture
def page(chromium, served):
    """A page with scripts, whose keys count at once."""
    with watching(chromium, served) as found:
        found.page.clock.install()
        yield found.page


def empty(served) -> None:
    for item in served.site.queue.pending(limit=1000):
        served.site.queue.release(item.ticket, item.claimed_by or "ada")
        served.site.queue.decide(item.ticket, Reply(answer="block", by="ada"))


def pressed(page, key: str) -> None:
    page.clock.fast_forward(1000)  # A key that was held since the page before does nothing.
    page.keyboard.press(key)


def test_an_attack_is_seen_and_does_nothing(watch, served):
    empty(served)
    item = served.put()
    page = watch.page
    page.goto(f"{served.url}/queue")
    page.locator(".excerpt a").click()
    page.wait_for_url(f"**/queue/{item.ticket}")
    box = page.get_by_role("region", name="The text", exact=True)
    seen = box.inner_text()
    assert "<script>alert(1)</script>" in seen
    assert "{{7*7}}" in seen
    assert "&lt;b&gt;" in seen
    assert "\\u202etxt.exe\\u202c" in seen
    assert "\\x1b[31mred" in seen
    assert "tags “hi”" in seen
    assert not set("\u202e\u202c\u200b\x1b\U000e0068") & set(page.content().partition("<textarea")[0])
    assert box.locator("script, img, svg, a").count() == 0
    assert page.locator(".hidden-char").first.get_attribute("title")
    marks = [mark.inner_text() for mark in box.locator("mark").all()]
    assert [mark.replace("\n", "") for mark in marks] == ["1Ign", "2ore", " this "]
    assert "injection: override 0.97" in box.locator("mark").first.get_attribute("title")
    assert page.locator(".legend li").count() == 2
    assert page.locator("#edited").input_value() == EVIL.replace("\x00", "\ufffd")
    pages = {url.removeprefix(served.url) for url in watch.requests if "/static/" not in url}
    assert pages - {"/login"} == {"/queue", f"/queue/{item.ticket}"}


def test_a_text_is_approved(watch, served):
    empty(served)
    item = served.put()
    watch.page.goto(f"{served.url}/queue/{item.ticket}")
    watch.page.get_by_role("button", name="Approve", exact=True).click()
    watch.page.wait_for_url("**/queue?done=approve")
    assert "Nothing waits." in watch.page.inner_text("main")
    assert served.site.queue.get(item.ticket).answer == "allow"


def test_a_text_is_refused(watch, served):
    empty(served)
    item, other = served.put(), served.put("another text")
    watch.page.goto(f"{served.url}/queue/{item.ticket}")
    watch.page.get_by_label("Reason, if any").fill('no <b>"thanks"')
    watch.page.get_by_role("button", name="Refuse").click()
    watch.page.wait_for_url(f"**/queue/{other.ticket}?done=refuse")
    assert "Refused." in watch.page.get_by_role("status").inner_text()
    found = served.site.queue.get(item.ticket)
    assert (found.answer, found.reason, found.by) == ("block", 'no <b>"thanks"', "ada")


def test_a_text_is_edited(watch, served):
    empty(served)
    item = served.put("\r\nfirst\r\nsecond </textarea>\u202e third")
    watch.page.goto(f"{served.url}/queue/{item.ticket}")
    watch.page.get_by_text("Edit", exact=True).click()
    field_ = watch.page.locator("#edited")
    assert field_.input_value() == "\nfirst\nsecond </textarea>\u202e third"
    field_.fill(field_.input_value() + "!")
    watch.page.get_by_role("button", name="Approve the edited text").click()
    watch.page.wait_for_url("**/queue?done=edit")
    assert served.site.queue.get(item.ticket).edited == "\r\nfirst\r\nsecond </textarea> third!"


def test_what_was_typed_is_shown_again(watch, served):
    empty(served)
    item = served.put()
    watch.page.goto(f"{served.url}/queue/{item.ticket}")
    served.site.queue.decide(item.ticket, Reply(answer="block", by="ada"))
    watch.page.get_by_text("Edit", exact=True).click()
    watch.page.locator("#edited").fill("my careful <edit>")
    watch.page.get_by_role("button", name="Approve the edited text").click()
    assert watch.page.get_by_label("What you typed").input_value() == "my careful <edit>"
    # Chromium itself tells of answers like this one.
    assert all("409" in line for line in watch.console)
    watch.console.clear()


def test_a_text_is_tried(watch, served):
    page = watch.page
    page.goto(f"{served.url}/try")
    page.get_by_label("The text").fill(f"This attack {EVIL}")
    page.get_by_role("button", name="Judge").click()
    page.wait_for_selector("#result")
    assert "block by rule injection" in page.inner_text(".verdict")
    heat = page.get_by_role("region", name="The text with its heat")
    assert "<script>alert(1)</script>" in heat.inner_text()
    assert heat.locator(".heat-2").count() == 1
    hot = heat.locator(".heat-9").evaluate("one => getComputedStyle(one).backgroundColor")
    assert hot != heat.locator(".heat-2").evaluate("one => getComputedStyle(one).backgroundColor")
    page.get_by_role("button", name="safety").click()
    page.wait_for_selector(".heat-4")
    assert page.get_by_role("button", name="safety").get_attribute("aria-pressed") == "true"


def test_signing_in_and_out(watch, served):
    watch.page.context.clear_cookies()
    sign_in(watch.page, served)
    watch.page.get_by_role("button", name="Sign out").click()
    watch.page.wait_for_url("**/login")
    watch.page.goto(f"{served.url}/queue")
    assert watch.page.url.endswith("/login")


def test_keys_decide(page, served):
    empty(served)
    first, second, third = (served.put(text) for text in ("first", "second", "third"))
    page.goto(f"{served.url}/queue")
    pressed(page, "j")
    pressed(page, "j")
    pressed(page, "k")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/queue/{first.ticket}")
    pressed(page, "j")
    page.wait_for_url(f"**/queue/{second.ticket}?leave={first.ticket}")
    pressed(page, "k")
    page.wait_for_url(f"**/queue/{first.ticket}?leave={second.ticket}")
    pressed(page, "?")
    assert page.get_by_text("back to the queue").is_visible()
    pressed(page, "e")
    page.keyboard.type("area ")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(f"**/queue/{second.ticket}?done=edit")
    pressed(page, "r")
    page.keyboard.type("area")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/queue/{third.ticket}?done=refuse")
    page.keyboard.press("a")  # Too soon after the page came.
    pressed(page, "Control+a")
    assert served.site.queue.get(third.ticket).status == "pending"
    pressed(page, "a")
    page.wait_for_url("**/queue?done=approve")
    found = [served.site.queue.get(item.ticket) for item in (first, second, third)]
    assert [(item.answer, item.reason) for item in found] == [("edit", None), ("block", "area"), ("allow", None)]
    assert found[0].edited in ("firstarea ", "area first")


def test_the_queue_looks_again_by_itself(page, served):
    empty(served)
    page.goto(f"{served.url}/queue")
    assert "Nothing waits." in page.inner_text("main")
    served.put("somebody wrote this")
    page.clock.fast_forward(16_000)
    page.wait_for_selector(".items")


@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits(chromium, served, width):
    empty(served)
    item = served.put("x" * 500)
    with watching(chromium, served, viewport={"width": width, "height": 800}) as watch:
        for path in ("/queue", f"/queue/{item.ticket}", "/try"):
            watch.page.goto(served.url + path)
            assert watch.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            unnamed = "input:not([type=hidden]), textarea, select"
            for one in watch.page.locator(unnamed).all():
                assert one.evaluate("one => one.labels.length > 0")
