"""A local chat model that is guarded from within."""

from __future__ import annotations

import threading
import time

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from lec_guard import Guard, GuardBlocked, GuardRunnable, LayerDetector, PolicyError, Step, TenantMismatch
from lec_guard.act.effects import Effects
from lec_guard.act.model import Guidable
from lec_guard.errors import UnsupportedValueError
from lec_guard.generate import GuardedChatModel, Guidance, InsideDetector, LocalChatModel
from lec_guard.generate.local import Asked
from lec_guard.observe.events import VerdictEvent
from lec_guard.testing import ScriptedChatModel
from tests.generate.inside import SYSTEM, Inside, inside, said
from tests.generate.test_guarded import NEVER, SHORT, WORDS_ONLY, Sink, harmful_from
from tests.generate.test_local import call_of, speaker

BAD = "poison steal secret hurt " * 3


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Inside:
    return inside("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    deadline = time.monotonic() + 5
    while any(one.name == "lec-guard-writing" for one in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(one.name == "lec-guard-writing" for one in threading.enumerate())


def policies(tmp, *, attack=0.5, harm=NEVER, hold_back="all", more="", name="default"):
    folder = tmp / "policies"
    (folder / "tenants").mkdir(parents=True, exist_ok=True)
    path = folder / ("default.yaml" if name == "default" else f"tenants/{name}.yaml")
    path.write_text(
        f"""
message: No, says {name}.
hold_back: {hold_back}
rules:
  - {{name: attack, stages: [input], head: attack, threshold: {attack}, action: block}}
  - {{name: harm, stages: [output, tool_input], head: harm, threshold: {harm}, action: block}}
{more}""",
        encoding="utf-8",
    )
    return folder


def chat_of(one: Inside, tmp, *, tokens=(), sink=None, every=4, fields=None, **said_by) -> GuardedChatModel:
    folder = policies(tmp, **said_by)
    bundles = [
        one.bundle(f"user-{tmp.name}"),
        one.bundle(f"answer-{tmp.name}", role="assistant", head="harm", tokens=tokens, window=SHORT),
    ]
    detector = InsideDetector.load(one.model, one.tokenizer, *bundles, every=every)
    guard = GuardRunnable.from_policies(folder, detector=detector, sinks=[] if sink is None else [sink])
    made = {"max_new_tokens": 12, **(fields or {})}
    return GuardedChatModel(tokenizer=one.tokenizer, guard=guard, detector=detector, **made)


def talk(seed=1, bad=""):
    return [SystemMessage(SYSTEM), HumanMessage(f"{said(seed)} {bad}".strip())]


def plain(one: Inside, messages, **fields) -> str:
    return LocalChatModel(model=one.model, tokenizer=one.tokenizer, **fields).invoke(messages).content


async def test_answers_are_those_of_the_model_alone(llama, tmp_path):
    chat, alone = chat_of(llama, tmp_path, attack=NEVER), plain(llama, talk(), max_new_tokens=12)
    assert chat.invoke(talk()).content == alone
    assert "".join(chunk.content for chunk in chat.stream(talk())) == alone
    assert (await chat.ainvoke(talk())).content == alone
    assert "".join([chunk.content async for chunk in chat.astream(talk())]) == alone
    assert [one.content for one in chat.batch([talk(1), talk(2)])] == [alone, plain(llama, talk(2), max_new_tokens=12)]
    assert [one.content for one in await chat.abatch([talk(1)])] == [alone]


async def test_the_verdict_is_in_the_answers_metadata_and_in_events(llama, tmp_path):
    class Heard(BaseCallbackHandler):
        def __init__(self):
            self.names = []

        def on_custom_event(self, name, data, **more):
            if name == "lec_guard.verdict":
                self.names.append((name, data["stage"], more["run_id"]))

        def on_chat_model_start(self, *args, **more):
            self.run_id = more["run_id"]

    sink = Sink()
    chat = chat_of(llama, tmp_path, sink=sink)
    for run in ("invoke", "stream"):
        heard = Heard()
        config = {"callbacks": [heard]}
        if run == "invoke":
            message = chat.invoke(talk(), config)
        else:
            chunks = list(chat.stream(talk(), config))
            message = sum(chunks[1:], chunks[0])
        told = message.response_metadata["lec_guard"]
        assert (told["action"], told["steps"], told["policy"]) == ("allow", 2, "default")
        assert told["detector_id"] == chat.detector.detector_id
        assert heard.names == [("lec_guard.verdict", stage, heard.run_id) for stage in ("input", "output")]
        assert message.usage_metadata["output_tokens"] > 0
    assert [event.verdict.stage for event in sink.events if isinstance(event, VerdictEvent)] == ["input", "output"] * 2


async def test_a_prompt_that_is_blocked_is_answered_with_the_policys_message(llama, tmp_path):
    chat, passes = chat_of(llama, tmp_path), []
    hook = llama.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        message = chat.invoke(talk(2, BAD))
        streamed = [chunk async for chunk in chat.astream(talk(2, BAD))]
    finally:
        hook.remove()
    assert message.content == "".join(chunk.content for chunk in streamed) == "No, says default."
    assert message.response_metadata["finish_reason"] == "blocked"
    assert message.response_metadata["lec_guard"]["rule"] == "attack"
    assert len(passes) == 2  # one for each prompt, none for a token
    raising = chat.model_copy(update={"on_block": "raise"})
    with pytest.raises(GuardBlocked) as caught:
        raising.invoke(talk(2, BAD))
    assert caught.value.verdict.rule == "attack"
    with pytest.raises(GuardBlocked):
        await raising.ainvoke(talk(2, BAD))


@pytest.mark.parametrize("hold_back", [4, "all"])
def test_an_answer_stops_where_it_turns(llama, tmp_path, monkeypatch, hold_back):
    settings = {"max_new_tokens": 40, "eos_token_id": None, **WORDS_ONLY}
    asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": said(1)}]
    token, turn = harmful_from(llama, asked, 20, **settings)
    writing, written = LocalChatModel._writing, []

    def quietly(self, prompt, how, **more):
        own = {**how.sampling, "eos_token_id": None, **WORDS_ONLY}
        found = writing(self, prompt, Asked(max_new_tokens=40, sampling=own), **more)
        written.append(found)
        return found

    monkeypatch.setattr(LocalChatModel, "_writing", quietly)
    chat = chat_of(llama, tmp_path, tokens=(token,), harm=0.5, hold_back=hold_back, every=1)
    chunks = list(chat.stream(talk(1)))
    went = "".join(chunk.content for chunk in chunks).removesuffix("No, says default.")
    assert chunks[-1].response_metadata["lec_guard"]["rule"] == "harm"
    assert bool(went) == (hold_back == 4)
    assert plain(llama, talk(1)).startswith(went)
    assert llama.tokenizer.decode([token]) not in went.split()
    assert turn < written[0].written_tokens <= turn + 8  # smoothing, and what may be written ahead of the reader


def test_tenants_have_their_own_policies(llama, tmp_path):
    policies(tmp_path, attack=NEVER, name="acme")
    chat = chat_of(llama, tmp_path)
    asked = talk(2, BAD)
    assert chat.invoke(asked).content == "No, says default."
    free = chat.invoke(asked, {"configurable": {"tenant": "acme"}})
    assert free.response_metadata["lec_guard"]["tenant"] == "acme"
    assert free.content == plain(llama, asked, max_new_tokens=12) == chat.for_tenant("acme").invoke(asked).content
    # Inside of another runnable, whose config LangChain hands on.
    through = (lambda value: value) | chat.with_retry()
    assert through.invoke(asked, {"configurable": {"tenant": "acme"}}).content == free.content
    with pytest.raises(PolicyError, match="nobody"):
        chat.invoke(asked, {"configurable": {"tenant": "nobody"}})
    with pytest.raises(TenantMismatch):
        chat.for_tenant("acme").invoke(asked, {"configurable": {"tenant": "other"}})


def test_a_rewritten_prompt_is_what_the_model_reads(llama, tmp_path):
    more = """
  - {name: mild, stages: [input], head: attack, threshold: 0.01, action: rewrite, rewrite: cleaned}
rewrite:
  cleaned: {kind: replace, text: mill river}
"""
    chat = chat_of(llama, tmp_path, attack=0.99, more=more)
    found = chat.invoke(talk(2, "poison steal"))
    assert found.content == plain(llama, [SystemMessage(SYSTEM), HumanMessage("mill river")], max_new_tokens=12)
    assert found.response_metadata["lec_guard"]["action"] == "rewrite"


def test_guidance_is_what_the_policy_says_of_who_wrote_the_conversation(llama, tmp_path):
    more = "guidance: {coefficient: 1.0, origins: {user: 2.0, third_party: 3.0}}\n"
    chat = chat_of(llama, tmp_path, attack=NEVER, more=more, fields={"positive": "kind", "negative": "no"})
    asked = {"user": talk(3), "third_party": [*talk(3), ToolMessage(said(5), tool_call_id="1")]}
    for origin, coefficient in (("user", 2.0), ("third_party", 3.0)):
        own = {"max_new_tokens": 12, "positive": "kind", "negative": "no"}
        alone = {c: plain(llama, asked[origin], guidance=Guidance(coefficient=c), **own) for c in (1.0, coefficient)}
        assert chat.invoke(asked[origin]).content == alone[coefficient] != alone[1.0]
    assert isinstance(chat, Guidable)
    assert chat.guided(2.5, "probability").guidance == Guidance(coefficient=2.5, space="probability")


@tool
def order(what: str) -> str:
    """Order something."""
    return what


def test_tool_calls_are_judged(tmp_path):
    called = call_of("order", {"what": "a poisoned cake"})
    model, tokenizer = speaker("Hello.", called)
    one = Inside(tmp_path, model, tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    bundle = one.bundle("any", role="assistant", head="harm", blocks=((1, "mean"),), window=SHORT)
    detector = InsideDetector.load(model, tokenizer, bundle)
    rules = "message: No.\nrules: [{name: calls, stages: [%s], head: harm, threshold: 0.000001, action: block}]"
    found = {}
    for stage in ("tool_input", "retrieval"):
        (tmp_path / f"{stage}.yaml").write_text(rules % stage)
        guard = GuardRunnable.from_policies(tmp_path / f"{stage}.yaml", detector=detector)
        chat = GuardedChatModel(tokenizer=tokenizer, guard=guard, detector=detector)
        found[stage] = chat.bind_tools([order]).invoke("x")
    assert found["retrieval"].tool_calls[0]["args"] == {"what": "a poisoned cake"}
    assert (found["tool_input"].content, found["tool_input"].tool_calls) == ("No.", [])
    assert found["tool_input"].response_metadata["lec_guard"]["stage"] == "tool_input"


def test_many_at_once_are_answered_as_each_alone(llama, tmp_path):
    chat = chat_of(llama, tmp_path, hold_back=4)
    asked = [talk(seed, BAD if seed % 3 == 0 else "") for seed in range(9)]
    alone = [chat.invoke(one) for one in asked]
    for found, one in zip(chat.batch(asked * 2, {"max_concurrency": 6}), alone * 2, strict=True):
        assert found.content == one.content
        assert found.response_metadata["lec_guard"] == one.response_metadata["lec_guard"]
    assert sum(one.content == "No, says default." for one in alone) == 3


async def test_who_stops_reading_stops_the_writing(llama, tmp_path):
    chat = chat_of(llama, tmp_path, attack=NEVER, hold_back=4, fields={"max_new_tokens": 40})
    reading = chat.stream(talk(1))
    next(reading)
    reading.close()
    async for _ in chat.astream(talk(1)):
        break


def test_what_does_not_fit_is_refused(llama, tmp_path):
    chat = chat_of(llama, tmp_path)
    other = inside("llama", tmp_path)
    with pytest.raises(UnsupportedValueError, match="another model's layers"):
        GuardedChatModel(model=other.model, tokenizer=llama.tokenizer, guard=chat.guard, detector=chat.detector)
    with pytest.raises(UnsupportedValueError, match="not cached"):
        GuardedChatModel(tokenizer=llama.tokenizer, guard=chat.guard, detector=chat.detector, cache=InMemoryCache())
    with pytest.raises(UnsupportedValueError, match="no setting of this model"):
        chat.invoke(talk(), temprature=1)
    with pytest.raises(ValueError, match="no conversation"):
        chat.invoke([])
    with pytest.raises(ValueError, match="reads 64"):
        chat.invoke([HumanMessage("mill " * 80)])


def test_one_call_loads_all_of_it(llama, tmp_path):
    bundles = [llama.bundle("u"), llama.bundle("a", role="assistant", head="harm", window=SHORT)]
    chat = GuardedChatModel.load_guarded(
        llama.folder / "model", *bundles, policies=policies(tmp_path), max_new_tokens=12
    )
    assert chat.invoke(talk(2, BAD)).content == "No, says default."
    assert chat.invoke(talk()).content == plain(llama, talk(), max_new_tokens=12)


def test_a_policy_has_a_local_model_write_anew_and_steers_it(llama, tmp_path, monkeypatch):
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        """
rules:
  - {name: mild, stages: [output], head: attack, threshold: 0.01, action: rewrite, rewrite: anew}
rewrite:
  anew: {kind: regenerate, instruction: Say it kindly., guidance: 2.5}
""",
        encoding="utf-8",
    )
    model, tokenizer = speaker("Kind words.")
    local = LocalChatModel(model=model, tokenizer=tokenizer)
    steered = []
    writing = LocalChatModel._writing
    monkeypatch.setattr(
        LocalChatModel,
        "_writing",
        lambda self, *args, **more: steered.append(self.guidance) or writing(self, *args, **more),
    )
    detector = LayerDetector.load(llama.bundle("user-anew"))
    guard = Guard.from_policies(policy, detector=detector, effects=Effects(models={"default": local}))
    outcome = guard.apply(Step(stage="output", text="poison"))
    assert steered == [Guidance(coefficient=2.5)]
    assert local.guidance is None
    assert outcome.text == "Kind words."
    plain_model = Effects(models={"default": ScriptedChatModel(answer="x")})
    with pytest.raises(PolicyError, match="can't be guided"):
        Guard.from_policies(policy, detector=detector, effects=plain_model)
