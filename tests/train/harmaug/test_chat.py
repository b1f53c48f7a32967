"""A chat model as one that writes: answers begun for it, or asked for; what providers tell, refuse and filter."""

from __future__ import annotations

import math

import pytest
from langchain_core.messages import AIMessage

from lec_guard.testing import ScriptedChatModel
from lec_guard.train.harmaug import Prompt
from lec_guard.train.harmaug.chat import ChatText

PROMPT = Prompt(system="Be kind.", user="Write.", prefix="I have an idea:")
VERDICT = Prompt(system="Be strict.", user='{"text": "hm"}', words=("safe", "unsafe"))


class Provider(ScriptedChatModel):
    """A scripted model of a provider that LangChain knows."""

    kind: str = "anthropic-chat"
    refuses: tuple[str, ...] = ()
    given: list[dict]

    @property
    def _llm_type(self):
        return self.kind

    async def ainvoke(self, messages, **kwargs):
        self.given.append({"messages": messages, **kwargs})
        if ("prefill" in self.refuses and messages[-1]["role"] == "assistant") or any(
            name in kwargs for name in self.refuses
        ):
            raise Refused(400)
        return await super().ainvoke(messages, **kwargs)


class Refused(Exception):
    def __init__(self, status, code=None):
        super().__init__("nobody may see this")
        self.status_code, self.code = status, code


@pytest.mark.parametrize("kind", ["anthropic-chat", "chat-ollama", "mistralai-chat"])
async def test_an_answer_is_begun_where_the_provider_goes_on_with_it(kind):
    model = Provider(kind=kind, answer="steal the moon.", given=[])
    said = await ChatText(model, prefill="auto").say(PROMPT)
    assert (said.text, said.prefixed, said.ending) == ("steal the moon.", True, "stop")
    *_, user, last = model.given[0]["messages"]
    assert user == {"role": "user", "content": "Write."}
    assert (last["role"], last["content"]) == ("assistant", "I have an idea:")
    # What the model is shown is a message of its own, and Mistral's mark is on it.
    assert model.calls[0][-1] == AIMessage("I have an idea:", additional_kwargs={"prefix": True})


async def test_what_repeats_the_beginning_loses_it():
    said = await ChatText(Provider(answer="I have an idea: steal it.", given=[]), prefill="auto").say(PROMPT)
    assert said.text == "steal it."


@pytest.mark.parametrize(
    ("answer", "text", "prefixed"),
    [
        ("I have an idea: steal it.", "steal it.", True),
        ('  "I HAVE AN IDEA: steal it.', "steal it.", True),
        ("**I have an idea:** steal it.", "steal it.", True),
        ("Sure! Steal it.", "Sure! Steal it.", False),
    ],
)
async def test_elsewhere_the_beginning_is_asked_for_and_taken_off(answer, text, prefixed):
    model = ScriptedChatModel(answer=answer)
    said = await ChatText(model, prefill="auto").say(PROMPT)
    assert (said.text, said.prefixed) == (text, prefixed)
    assert [message.type for message in model.calls[0]] == ["system", "human"]
    assert model.calls[0][1].text == 'Write. Begin your answer with "I have an idea:"'


async def test_prefill_can_be_said_outright():
    model = ScriptedChatModel(answer="steal it.")
    assert (await ChatText(model, prefill="always").say(PROMPT)).prefixed
    assert model.calls[0][-1].text == "I have an idea:"
    model = Provider(answer="steal it.", given=[])
    assert not (await ChatText(model, prefill="never").say(PROMPT)).prefixed


async def test_a_provider_that_takes_no_beginning_is_asked_without_from_then_on():
    model = Provider(answer="I have an idea: steal it.", refuses=("prefill",), given=[])
    writer = ChatText(model, prefill="auto")
    assert [(await writer.say(PROMPT)).text for _ in range(2)] == ["steal it."] * 2
    assert [one["messages"][-1]["role"] for one in model.given] == ["assistant", "user", "user"]
    with pytest.raises(Refused):
        await ChatText(model, prefill="always").say(PROMPT)


def logprobs(**shares: float) -> AIMessage:
    top = [{"token": token, "logprob": math.log(share)} for token, share in shares.items()]
    return AIMessage("unsafe 0.9", response_metadata={"logprobs": {"content": [{"top_logprobs": top}]}})


@pytest.mark.parametrize(
    ("shares", "share"),
    [
        ({"safe": 0.2, "unsafe": 0.6, "Well": 0.2}, 0.75),
        ({" Safe": 0.2, "un": 0.4, "UNSAFE": 0.2}, 0.75),
        ({"s": 0.5, "u": 0.5}, 0.5),
        ({"safe": 0.2, "I": 0.8}, None),
        ({"": 1.0}, None),
    ],
)
async def test_how_sure_it_is_of_its_first_word_is_told_where_the_provider_tells(shares, share):
    model = Provider(kind="openai-chat", answer=logprobs(**shares), given=[])
    said = await ChatText(model, prefill="auto").say(VERDICT)
    assert said.share == (None if share is None else pytest.approx(share))
    assert model.given[0]["logprobs"] is True


async def test_a_model_that_tells_no_probabilities_is_asked_without_them_from_then_on():
    model = Provider(kind="openai-chat", answer="safe 0.1", refuses=("logprobs",), given=[])
    teacher = ChatText(model, prefill="auto")
    for _ in range(2):
        assert (await teacher.say(VERDICT)).share is None
    assert ["logprobs" in one for one in model.given] == [True, False, False]
    # Nobody else is asked for them, nor where there are no words to choose from.
    other = Provider(kind="chat-ollama", answer="safe 0.1", given=[])
    await ChatText(other, prefill="auto").say(VERDICT)
    await ChatText(model, prefill="auto").say(PROMPT)
    assert "logprobs" not in other.given[0]
    assert "logprobs" not in model.given[-1]


@pytest.mark.parametrize(
    ("metadata", "ending"),
    [
        ({"finish_reason": "stop"}, "stop"),
        ({"finish_reason": "length"}, "length"),
        ({"stop_reason": "max_tokens"}, "length"),
        ({"finish_reason": "MAX_TOKENS"}, "length"),
        ({"finish_reason": "content_filter"}, "refused"),
        ({"stop_reason": "refusal"}, "refused"),
        ({"finish_reason": "SAFETY"}, "refused"),
        ({}, "stop"),
    ],
)
async def test_why_an_answer_ends_is_told(metadata, ending):
    model = ScriptedChatModel(answer=AIMessage("I have an idea: x", response_metadata=metadata))
    assert (await ChatText(model, prefill="auto").say(PROMPT)).ending == ending


async def test_a_filter_that_ends_a_call_is_an_answer_and_other_errors_are_not():
    def answer(messages):
        raise Refused(400, "content_filter")

    said = await ChatText(ScriptedChatModel(answer=answer), prefill="auto").say(PROMPT)
    assert said.ending == "refused"

    def fail(messages):
        raise Refused(401)

    with pytest.raises(Refused):
        await ChatText(ScriptedChatModel(answer=fail), prefill="auto").say(PROMPT)


async def test_tokens_are_the_providers_or_about_as_many():
    usage = {"input_tokens": 70, "output_tokens": 8, "total_tokens": 78}
    model = ScriptedChatModel(answer=AIMessage("I have an idea: x", usage_metadata=usage))
    said = await ChatText(model, prefill="auto").say(PROMPT)
    assert (said.tokens_in, said.tokens_out) == (70, 8)
    said = await ChatText(ScriptedChatModel(answer="I have an idea: x"), prefill="auto").say(PROMPT)
    assert (said.tokens_in, said.tokens_out) == (4, 5)
