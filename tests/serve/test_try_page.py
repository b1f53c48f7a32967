"""The page to try things."""

from __future__ import annotations

import re

import pytest

from lec_guard.serve.try_page import LONGEST
from tests.serve.made import BO, CY, DEE, Site

ATTACK = "An attack on <b>us</b>."


async def tried(browser, **fields: str):
    await browser.get("/try")
    return await browser.post("/try", {"text": ATTACK, "system": "", "stage": "input", "tenant": "", **fields})


async def test_a_text_is_judged_and_nothing_follows(site):
    browser = await site.signed_in()
    answer = await tried(browser, system="A task.")
    assert answer.status_code == 200
    for shown in ('class="action block"', "by rule <b>injection</b>", "<blockquote>No.</blockquote>", "on python",
                  'value="1.0000"', "keywords", ">default <span"):  # fmt: skip
        assert shown in answer.text
    assert "<b>us" not in answer.text
    (step,) = site.detector.seen
    assert (step.text, step.context, step.stage) == (ATTACK, "A task.", "input")
    assert site.queue.pending() == []


async def test_a_harmless_text_passes(site):
    answer = await tried(await site.signed_in(), text="hello")
    assert 'class="action allow"' in answer.text
    assert "no rule matched" in answer.text


async def test_what_was_given_stays_in_the_form(site):
    answer = await tried(await site.signed_in(), text="\r\nline </textarea>", stage="retrieval", tenant="globex")
    assert 'spellcheck="false">\n\nline &lt;/textarea&gt;</textarea>' in answer.text
    assert "<option selected>retrieval</option>" in answer.text
    assert 'value="globex"' in answer.text


async def test_the_heat_is_of_the_hottest_head_or_the_chosen_one(site):
    browser = await site.signed_in()
    hot = (await tried(browser)).text
    box = re.search(r'aria-label="The text with its heat".*?</div>', hot, re.DOTALL)[0]
    assert re.findall(r'<span class="heat-(\d+)">([^<]*)</span>', box) == [
        ("2", "An attack o"),
        ("9", "n &lt;b&gt;us&lt;/b&gt;."),
    ]
    assert 'value="injection" class="chosen"' in hot
    mild = (await tried(browser, head="safety")).text
    assert re.findall(r'<span class="heat-(\d+)">An', mild) == ["4"]
    assert 'value="safety" class="chosen"' in mild
    assert 'value="injection" class="chosen"' in (await tried(browser, head="<none>")).text


async def test_without_heat_there_are_spans_alone(site, tmp_path, policies):
    assert "<h2>Heat</h2>" not in (await tried(await site.signed_in(), text="too hot")).text
    other = Site(tmp_path, policies, options={"heat": None})
    answer = await tried(await other.signed_in())
    assert "<h2>Heat</h2>" not in answer.text
    assert "<h2>What matched rules found</h2>" in answer.text
    other.close()


async def test_a_detector_that_fails_shows_nothing_of_the_text(site, caplog):
    answer = await tried(await site.signed_in(), text="too hot")
    assert answer.status_code == 200
    assert "must not be shown" not in answer.text + caplog.text
    assert "DetectorError" in caplog.text


@pytest.mark.parametrize("name", ["text", "system"])
async def test_a_text_that_is_too_long_is_told(site, name):
    browser = await site.signed_in()
    answer = await tried(browser, **{name: "ü" * (LONGEST + 1)})
    assert answer.status_code == 413
    assert "up to 200,000 characters here; yours has 200,001" in answer.text
    assert site.detector.seen == []
    assert (await tried(browser, **{name: "ü" * LONGEST})).status_code == 200


async def test_the_tenants_policy_judges(site):
    browser = await site.signed_in()
    assert "Acme says no." in (await tried(browser, tenant=" acme ")).text
    assert 'class="action flag"' in (await tried(browser, tenant="globex")).text


@pytest.mark.parametrize("tenant", ["initech", "../acme", "\u202e", "a" * 300])
async def test_an_unknown_tenant_is_told(site, tenant, caplog):
    answer = await tried(await site.signed_in(), tenant=tenant)
    assert answer.status_code == 422
    assert "no policy for this tenant" in answer.text
    assert "\u202e" not in caplog.text
    assert str(site.folder) not in answer.text


async def test_nobody_tries_others_policies(site):
    for key, own, others in ((BO, ["acme"], ["globex", ""]), (CY, ["globex", ""], ["acme"])):
        browser = await site.signed_in(key)
        for tenant in own:
            assert (await tried(browser, tenant=tenant)).status_code == 200
        site.detector.seen.clear()
        for tenant in others:
            assert (await tried(browser, tenant=tenant)).status_code == 404
        assert site.detector.seen == []
    page = (await (await site.signed_in(BO)).get("/try")).text
    assert re.findall(r'<option value="([^"]+)">', page) == ["acme"]
    assert 'name="tenant" list="tenants" maxlength="200" value="acme"' in page


async def test_all_tenants_are_proposed_to_who_sees_all(site):
    page = (await (await site.signed_in()).get("/try")).text
    assert set(re.findall(r'<option value="([^"]+)">', page)) == {"acme", "globex"}


async def test_an_unknown_stage_is_told(site):
    answer = await tried(await site.signed_in(), stage="<b>")
    assert answer.status_code == 422
    assert "no such stage" in answer.text
    assert site.detector.seen == []


async def test_who_may_not_try_does_not_know_of_it(site, tmp_path, policies):
    browser = await site.signed_in(DEE)
    assert 'href="/try"' not in (await browser.get("/queue")).text
    assert (await browser.get("/try")).status_code == 404
    assert (await browser.post("/try", {"text": ATTACK, "stage": "input"})).status_code == 404
    assert site.detector.seen == []
    other = Site(tmp_path, policies, options={"guard": None})
    ada = await other.signed_in()
    assert 'href="/try"' not in (await ada.get("/queue")).text
    assert (await ada.get("/try")).status_code == 404
    other.close()
