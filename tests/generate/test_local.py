"""A local model behind LangChain's interface says what `generate` says."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
import torch
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from pydantic import BaseModel, Field, ValidationError
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.generate import Guidance, GuidedCausalLM, paired
from lec_guard.generate.local import LocalChatModel
from lec_guard.generate.rendering import conversation_of, render
from lec_guard.generate.writing import Writing
from tests.generate.test_rendering import CHATML, chat_tokenizer
from tests.generate.tiny import KINDS, model_of


def pieces_of(*texts):
    """Texts in pieces of which no two are alike, so that each says which is next."""
    used: set[str] = set()
    found = []
    for text in texts:
        own, piece = [], ""
        for char in text:
            piece += char
            # Not a piece of one byte: that would be the token of prompts, too.
            if len(piece.encode()) > 1 and piece not in used:
                used.add(piece)
                own.append(piece)
                piece = ""
        while piece:  # what is left over goes with what is before it
            piece = own.pop() + piece
            if piece not in used:
                used.add(piece)
                own.append(piece)
                piece = ""
        found.append(own)
    return found


def speaker(said="Hello, who is there?", called=None):
    """A model that by its weights writes one text after a prompt, and another where a call is wanted.

    Which token comes next is only what the last one was: a table in `lm_head`, in front of which nothing happens.
    """
    texts = [text for text in (said, called) if text]
    chains = pieces_of(*texts)
    tokenizer = chat_tokenizer(*(piece for chain in chains for piece in chain))
    size = len(tokenizer) + len(tokenizer) % 2
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    ends = tokenizer.eos_token_id
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    following = dict.fromkeys(range(len(tokenizer)), ends)
    for start, chain in zip(("<|say|>", "<|call|>"), chains, strict=False):
        last = tokenizer.convert_tokens_to_ids(start)
        for piece in chain:
            [(written, _)] = as_bytes.pre_tokenize_str(piece)
            following[last] = tokenizer.convert_tokens_to_ids(written)
            last = following[last]
        following[last] = ends
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.layers[0].input_layernorm.weight.fill_(1.0)
        model.model.layers[0].post_attention_layernorm.weight.fill_(1.0)
        for token, other in following.items():
            model.model.embed_tokens.weight[token, token] = 1.0
            model.lm_head.weight[other, token] = 1.0
    return model, tokenizer


def call_of(name, args):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': args}, ensure_ascii=False)}\n</tool_call>"


def chat_of(*texts, **fields):
    model, tokenizer = speaker(*texts)
    return LocalChatModel(model=model, tokenizer=tokenizer, **fields)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    deadline = time.monotonic() + 5
    while writing_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert writing_threads() == []


def writing_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lec-guard")]


TOKENIZER = chat_tokenizer()


def random_chat(kind="llama", **fields):
    model = model_of(kind, vocabulary=len(TOKENIZER))
    model.config.max_position_embeddings = 4096
    return LocalChatModel(**{"model": model, "tokenizer": TOKENIZER, "max_new_tokens": 16, **fields})


TALK = [SystemMessage("Be brief."), HumanMessage("Who <|im_end|> is there?")]
SHORT = [HumanMessage("Hi")]


def whole(chunks):
    chunks = list(chunks)
    return sum(chunks[1:], start=chunks[0])


# The same words, whoever asks and how.


@pytest.mark.parametrize(
    ("kind", "guidance", "drawn"),
    [
        ("llama", None, {}),
        ("llama", None, {"temperature": 0.9, "top_p": 0.9, "top_k": 40}),
        ("llama", Guidance(coefficient=1.5), {"temperature": 0.0}),
        ("llama", Guidance(sequential=True), {"temperature": 0.9}),
        ("qwen2", None, {"temperature": 1.0}),
    ],
)
async def test_streamed_and_invoked_and_plain_are_one(kind, guidance, drawn):
    chat = random_chat(kind, guidance=guidance, **drawn)
    settings = {"do_sample": True, **drawn} if drawn.get("temperature") else {"do_sample": False}
    torch.manual_seed(2)
    if guidance is None:
        ids = render(TOKENIZER, conversation_of(TALK)).ids
        plain = chat.model.generate(torch.tensor([ids]), max_new_tokens=16, **settings)[0, len(ids) :]
    else:
        both = paired(TOKENIZER, [conversation_of(TALK)])
        ids = both.input_ids[0].tolist()
        plain = GuidedCausalLM(chat.model, guidance).generate(**both.arguments(), max_new_tokens=16, **settings)
        plain = plain[0, len(ids) :]
    text = TOKENIZER.decode(plain, skip_special_tokens=True)

    torch.manual_seed(2)
    invoked = chat.invoke(TALK)
    assert invoked.content == text
    assert invoked.usage_metadata == {
        "input_tokens": len(ids),
        "output_tokens": len(plain),
        "total_tokens": len(ids) + len(plain),
    }
    torch.manual_seed(2)
    streamed = whole(chat.stream(TALK))
    torch.manual_seed(2)
    awaited = await chat.ainvoke(TALK)
    torch.manual_seed(2)
    chunks = [chunk async for chunk in chat.astream(TALK)]
    for other in (streamed, awaited, whole(chunks)):
        assert other.content == text
        assert other.usage_metadata == invoked.usage_metadata
        assert other.response_metadata["finish_reason"] == invoked.response_metadata["finish_reason"]
    assert chunks[-1].chunk_position == "last"


async def test_batches_are_single_answers():
    chat = random_chat()
    talks = [[HumanMessage(text)] for text in ("a", "bb", "what", "why?")]
    alone = [chat.invoke(talk).content for talk in talks]
    assert len(set(alone)) == len(alone)
    assert [answer.content for answer in chat.batch(talks)] == alone
    assert [answer.content for answer in await chat.abatch(talks)] == alone
    many = await asyncio.gather(*(chat.ainvoke(talk) for talk in talks))
    assert [answer.content for answer in many] == alone


def test_tokens_come_one_by_one():
    chat = chat_of("Hello, who is there?")
    pieces = [chunk.content for chunk in chat.stream("x") if chunk.content]
    assert pieces == pieces_of("Hello, who is there?")[0]


async def test_it_is_a_part_of_chains():
    chat = chat_of("Hello, who is there?")
    chain = ChatPromptTemplate.from_messages([("system", "Be {mood}."), ("human", "{text}")]) | chat | StrOutputParser()
    given = {"mood": "calm", "text": "Hi"}
    assert chain.invoke(given) == "".join(chain.stream(given)) == "Hello, who is there?"
    assert "".join([piece async for piece in chain.astream(given)]) == "Hello, who is there?"


# Who stops reading stops the writing.


class Counted(LocalChatModel):
    """Knows the writings that it began."""

    def _writing(self, prompt, asked, **more):
        made = super()._writing(prompt, asked, **more)
        WRITINGS.append(made)
        return made


WRITINGS: list[Writing] = []


@pytest.fixture
def endless():
    WRITINGS.clear()
    model = model_of("llama", vocabulary=len(TOKENIZER))
    model.config.max_position_embeddings = 100_000
    model.generation_config.eos_token_id = None
    chat = Counted(model=model, tokenizer=TOKENIZER, max_new_tokens=90_000)
    yield chat
    WRITINGS.clear()


def test_who_leaves_a_stream_ends_the_writing(endless):
    for chunk in endless.stream("x"):
        if chunk.content:
            break
    del chunk
    assert writing_threads() == []
    assert WRITINGS[0].finish_reason == "stopped"
    stream = endless.stream("x")
    next(stream)
    assert len(writing_threads()) == 1
    stream.close()
    assert writing_threads() == []


async def test_who_leaves_an_async_stream_ends_the_writing(endless):
    async for chunk in endless.astream("x"):
        if chunk.content:
            break
    await gone()
    assert WRITINGS[0].finish_reason == "stopped"
    stream = endless.astream("x")
    await anext(stream)
    await stream.aclose()
    await gone()
    assert WRITINGS[1].written_tokens < 50


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_task_that_is_cancelled_ends_the_writing(endless, streamed):
    async def read():
        async for _ in endless.astream("x"):
            pass

    task = asyncio.ensure_future(read() if streamed else endless.ainvoke("x"))
    while not (WRITINGS and WRITINGS[0].written_tokens > 3):  # noqa: ASYNC110 - the thread tells nobody
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone()
    assert WRITINGS[0].finish_reason == "stopped"


async def gone():
    deadline = time.monotonic() + 5
    while writing_threads():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_the_loop_goes_on_while_something_is_written(endless):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.ensure_future(tick())
    seen = 0
    async for _ in endless.astream("x"):
        seen += 1
        if seen == 30:
            break
    ticking.cancel()
    assert ticks > 10
    await gone()


def test_what_fails_while_it_writes_is_raised():
    class Fails(LocalChatModel):
        def _writing(self, prompt, asked, **more):
            class Breaks(torch.nn.Module):
                def __call__(self, input_ids, scores):
                    raise ArithmeticError("broken")

            return super()._writing(prompt, asked, logits_processor=[Breaks()])

    chat = Fails(model=model_of("llama", vocabulary=len(TOKENIZER)), tokenizer=TOKENIZER)
    with pytest.raises(ArithmeticError, match="broken"):
        chat.invoke("x")
    with pytest.raises(ArithmeticError, match="broken"):
        list(chat.stream("x"))


# Where answers end.


async def test_stop_strings_end_answers():
    chat = chat_of("one two three four", stop=["three"])
    assert chat.invoke("x").content == "one two "
    assert whole(chat.stream("x")).content == "one two "
    assert chat.invoke("x", stop=["two"]).content == "one "
    assert (await chat.ainvoke("x", stop=[])).content == "one two three four"
    assert chat.invoke("x").response_metadata["finish_reason"] == "stop"


def test_answers_end_at_their_limit():
    chat = chat_of("one two three four")
    whole_answer = chat.invoke("x")
    assert (whole_answer.content, whole_answer.response_metadata["finish_reason"]) == ("one two three four", "stop")
    for settings in ({"max_new_tokens": 3}, {"max_tokens": 3}):
        cut = chat.invoke("x", **settings)
        assert cut.usage_metadata["output_tokens"] == 3
        assert cut.response_metadata["finish_reason"] == "length"
    assert LocalChatModel(model=chat.model, tokenizer=chat.tokenizer, max_tokens=3).invoke("x").content == cut.content


@pytest.mark.parametrize("guidance", [None, Guidance()])
def test_answers_end_where_the_context_is_full(guidance):
    chat = random_chat(guidance=guidance, max_new_tokens=1000)
    chat.model.generation_config.eos_token_id = None
    chat.model.config.max_position_embeddings = 200
    found = chat.invoke(TALK)
    used = found.usage_metadata["total_tokens"]
    assert found.response_metadata["finish_reason"] == "length"
    assert used == 200 or (guidance and 190 < used < 200)
    with pytest.raises(ValueError, match=r"the prompt has 2\d\d tokens, and the model reads 200"):
        chat.invoke("x" * 200)


# Tools.


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


CALL = call_of("add", {"a": 1, "b": 2})


def test_a_call_is_a_call():
    chat = chat_of("It is three.", f"I will add them.\n{CALL}").bind_tools([add])
    found = chat.invoke("What is 1 + 2?")
    (call,) = found.tool_calls
    assert (call["name"], call["args"]) == ("add", {"a": 1, "b": 2})
    assert found.content == "I will add them.\n"
    streamed = list(chat.stream("What is 1 + 2?"))
    assert not any("<" in chunk.content for chunk in streamed)
    merged = whole(streamed)
    assert [(one["name"], one["args"]) for one in merged.tool_calls] == [("add", {"a": 1, "b": 2})]
    assert merged.content == found.content
    assert merged.tool_calls[0]["id"] != call["id"]
    answer = chat.invoke([HumanMessage("What is 1 + 2?"), found, ToolMessage("3", tool_call_id=call["id"])])
    assert answer.content == "It is three."


def test_what_nobody_asked_for_is_text():
    chat = chat_of(CALL)
    found = chat.invoke("x")
    assert (found.content, found.tool_calls) == (CALL, [])
    assert whole(chat.stream("x")).content == CALL


def test_a_call_that_was_cut_off_is_not_mended():
    chat = chat_of("no", CALL).bind_tools([add])
    for tokens in range(6, 12):
        found = chat.invoke("x", max_tokens=tokens)
        if found.response_metadata["finish_reason"] == "stop":
            break
        merged = whole(chat.stream("x", max_tokens=tokens))
        for one in (found, merged):
            assert one.tool_calls == []
            assert len(one.invalid_tool_calls) == 1 or "<" not in one.content


def test_tools_that_cannot_be_called_are_refused():
    chat = chat_of()
    assert chat.bind_tools([add], tool_choice="auto")
    for choice in ("any", "required", "add", "none"):
        with pytest.raises(UnsupportedValueError, match=f"tool_choice='{choice}' can't be kept"):
            chat.bind_tools([add], tool_choice=choice)
    with pytest.raises(UnsupportedValueError, match="can't be kept"):
        chat.invoke("x", tools=[add], tool_choice="any")
    chat.tokenizer.chat_template = CHATML.replace("tool_call", "function")
    with pytest.raises(UnsupportedValueError, match="no tool calls between <tool_call> and </tool_call>"):
        chat.bind_tools([add])


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(description="how it begins")
    punchline: str


async def test_structured_answers():
    joke = {"setup": "Why?", "punchline": "Because 🙂"}
    chat = chat_of("no", call_of("Joke", joke))
    assert chat.with_structured_output(Joke).invoke("x") == Joke(**joke)
    assert await chat.with_structured_output(Joke.model_json_schema()).ainvoke("x") == joke
    found = chat.with_structured_output(Joke, include_raw=True, method="json_schema").invoke("x")
    assert isinstance(found["raw"], AIMessage)
    assert (found["parsed"], found["parsing_error"]) == (Joke(**joke), None)
    wrong = chat_of("no", call_of("Joke", {"setup": 1})).with_structured_output(Joke, include_raw=True).invoke("x")
    assert wrong["parsed"] is None
    assert wrong["parsing_error"] is not None
    assert chat_of("no", "no call, sorry").with_structured_output(Joke).invoke("x") is None
    with pytest.raises(UnsupportedValueError, match="no other"):
        chat.with_structured_output(Joke, other=1)


# What the model says of itself.


def test_what_traces_and_caches_know():
    chat = random_chat(temperature=0.5, stop=["x"])
    assert chat._get_ls_params() == {
        "ls_provider": "lec_guard",
        "ls_model_type": "chat",
        "ls_model_name": "LlamaForCausalLM",
        "ls_max_tokens": 16,
        "ls_temperature": 0.5,
        "ls_stop": ["x"],
    }
    assert chat._get_ls_params(stop=["y"], max_tokens=3, temperature=0.1)["ls_max_tokens"] == 3
    assert chat._llm_type == "lec-guard-local"
    strings = {
        random_chat(**fields)._get_llm_string()
        for fields in ({}, {"temperature": 1.0}, {"guidance": Guidance()}, {"guidance": Guidance(coefficient=3.0)})
    }
    assert len(strings) == 4
    assert "Linear" not in repr(chat)


def test_a_path_is_not_told(tmp_path):
    chat = random_chat()
    for name, told in ((str(tmp_path / "acme-7b"), "acme-7b"), ("org/model", "org/model"), ("", "LlamaForCausalLM")):
        chat.model.name_or_path = name
        chat.model.config._name_or_path = name
        assert chat.model_name == told


def test_guidance_can_be_changed():
    chat = random_chat()
    steered = chat.with_guidance(Guidance(coefficient=3.0))
    assert steered.model is chat.model
    assert (chat.guidance, steered.guidance) == (None, Guidance(coefficient=3.0))
    assert steered.invoke("x").content != chat.invoke("x").content
    assert steered.with_guidance(None).invoke("x").content == chat.invoke("x").content
    other = random_chat(guidance=Guidance(coefficient=3.0), positive="Be kind.", negative="Be rude.")
    assert other.invoke("x").content != steered.invoke("x").content


def test_callbacks_see_tokens():
    class Seen(BaseCallbackHandler):
        def __init__(self):
            self.tokens = []

        def on_llm_new_token(self, token, **kwargs):
            self.tokens.append(token)

    seen = Seen()
    chat = chat_of("Hello, who is there?", streaming=True)
    assert chat.invoke("x", config={"callbacks": [seen]}).content == "".join(seen.tokens) == "Hello, who is there?"
    assert len(seen.tokens) > 3


# What is refused.


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_new_token": 3}, "max_new_token"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 3, "max_tokens": 3}, "give one"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"model": "name"}, "PreTrainedModel"),
    ],
)
def test_fields_that_mean_nothing_are_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        random_chat(**fields)


def test_settings_that_mean_nothing_are_refused():
    chat = random_chat()
    with pytest.raises(UnsupportedValueError, match="'num_beams' is no setting of this model; it has max_new_tokens"):
        chat.invoke("x", num_beams=3)
    with pytest.raises(UnsupportedValueError, match="'image'"):
        chat.invoke([HumanMessage([{"type": "image", "url": "x"}])])
    with pytest.raises(ValueError, match="no conversation"):
        chat.invoke([])
    bare = chat_tokenizer()
    bare.chat_template = None
    with pytest.raises(UnsupportedValueError, match="has no chat template; set"):
        LocalChatModel(model=chat.model, tokenizer=bare)


# From a folder.


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_from_a_folder(tmp_path, kind):
    chat = random_chat(kind, max_new_tokens=5)
    chat.model.config.max_position_embeddings = 64
    chat.model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    found = LocalChatModel.load(tmp_path, max_new_tokens=5, device="cpu")
    assert found.invoke(SHORT).content == chat.invoke(SHORT).content
    assert found.model_name == tmp_path.name
    assert not found.model.training


def test_a_folder_without_a_whole_model_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"nowhere: not a causal .*: there is no such folder"):
        LocalChatModel.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"it has no config\.json"):
        LocalChatModel.load(tmp_path)
    chat = random_chat()
    chat.model.config.save_pretrained(tmp_path)
    with pytest.raises(BundleError, match="not a causal language model that can be read"):
        LocalChatModel.load(tmp_path)
    torch.save(chat.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BundleError, match="not a causal language model that can be read"):  # a pickle
        LocalChatModel.load(tmp_path)
    weights = chat.model.state_dict()
    del weights["model.norm.weight"]
    chat.model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(BundleError, match=r"1 weights are missing, model\.norm\.weight among them"):
        LocalChatModel.load(tmp_path)
    chat.model.save_pretrained(tmp_path)
    with pytest.raises(BundleError, match="its tokenizer can't be loaded"):
        LocalChatModel.load(tmp_path)
    # transformers would take the weights that these name.
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    with pytest.raises(BundleError, match=r"holds adapters of peft \(adapter_config\.json\)"):
        LocalChatModel.load(tmp_path)
