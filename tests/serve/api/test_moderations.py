"""`/v1/moderations`, with OpenAI's own client."""

from __future__ import annotations

import httpx
import openai
import pytest

from lec_guard.serve.api.moderations import STANDARD
from tests.serve.api.made import ACME, ALL, EXACT, TWO


def client(api, key=ALL, **headers):
    transport = httpx.ASGITransport(api.app)
    return openai.AsyncOpenAI(
        api_key=key,
        base_url="http://api/v1",
        http_client=httpx.AsyncClient(transport=transport),
        max_retries=0,
        default_headers=headers,
    )


async def test_openai_s_client_reads_the_answer(api):
    found = await client(api).moderations.create(input=["hello", "DARN"], model="omni-moderation-latest")
    first, second = found.results
    assert (first.flagged, second.flagged) == (False, True)
    assert set(STANDARD) <= set(first.categories.model_dump(by_alias=True))
    assert first.category_scores.hate == 0.0
    assert found.id.startswith("modr-")
    assert not any(first.categories.model_dump().values())


async def test_what_a_head_of_ours_found_has_a_name_of_ours(api):
    found = await client(api, EXACT).moderations.create(input="an ATTACK")
    (result,) = found.results
    assert result.flagged
    assert result.categories.model_extra["lec_guard/injection"] is True
    assert result.category_scores.model_extra["lec_guard/injection"] == 1.0


async def test_scores_are_rounded_for_keys_that_may_not_see_them(api):
    (result,) = (await client(api).moderations.create(input="an ATTACK")).results
    assert set(result.category_scores.model_dump().values()) <= {0.0, 1.0}


async def test_parts_of_one_input_are_judged_as_one(api):
    parts = [{"type": "text", "text": "an"}, {"type": "text", "text": "ATTACK"}]
    (result,) = (await client(api).moderations.create(input=parts)).results
    assert result.flagged


async def test_images_are_refused(api):
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    with pytest.raises(openai.BadRequestError, match="images can't be read"):
        await client(api).moderations.create(input=parts)


async def test_the_header_names_the_tenant(api):
    with pytest.raises(openai.BadRequestError, match="several tenants"):
        await client(api, TWO).moderations.create(input="hello")
    own = client(api, TWO, **{"X-Lec-Guard-Tenant": "globex"})
    assert not (await own.moderations.create(input="hello")).results[0].flagged
    with pytest.raises(openai.AuthenticationError):
        await client(api, "lgk_wrong").moderations.create(input="hello")
    assert (await client(api, ACME).moderations.create(input="an ATTACK")).results[0].flagged
