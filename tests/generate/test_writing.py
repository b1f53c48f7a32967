"""What is read while it is written is what `generate` writes, and nothing is written that nobody reads."""

from __future__ import annotations

import contextvars
import random
import subprocess
import sys
import threading
import time

import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers import pre_tokenizers as pre
from tokenizers.models import BPE
from transformers import LogitsProcessor, PreTrainedTokenizerFast, StoppingCriteria

from lec_guard.generate import Guidance, GuidedCausalLM
from lec_guard.generate.decoding import Decoder
from lec_guard.generate.writing import Writing, _Stops
from tests.generate.test_rendering import SPECIAL, chat_tokenizer
from tests.generate.tiny import EOS, KINDS, model_of

TOKENIZER = chat_tokenizer()
VOCABULARY = len(TOKENIZER)
PROMPT = {"input_ids": torch.tensor([[65, 66, 67, 32]])}
PAIR = {**PROMPT, "negative_input_ids": torch.tensor([[70, 71, 32]])}


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("lec-guard")] == []


@pytest.fixture(scope="module")
def model():
    return model_of("llama", vocabulary=VOCABULARY)


class Forced(LogitsProcessor):
    """Writes given tokens; counts how many were drawn."""

    def __init__(self, tokens, prompt=PROMPT):
        self.tokens, self.start, self.drawn = tokens, prompt["input_ids"].shape[1], 0

    def __call__(self, input_ids, scores):
        at = input_ids.shape[1] - self.start
        forced = torch.full_like(scores, -float("inf"))
        forced[:, self.tokens[at % len(self.tokens)]] = 0.0
        self.drawn += 1
        return forced


def tokens_of(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def forced(model, tokens, **settings):
    return Writing(
        model,
        TOKENIZER,
        PROMPT,
        **{"max_new_tokens": len(tokens), "eos_token_id": 257, "logits_processor": [Forced(tokens)], **settings},
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"do_sample": True, "top_k": 5, "temperature": 0.6}])
@pytest.mark.parametrize("guidance", [None, Guidance(), Guidance(sequential=True), Guidance(coefficient=1.0)])
def test_tokens_are_those_of_generate(kind, settings, guidance):
    model, inputs = model_of(kind, vocabulary=VOCABULARY), PROMPT
    if guidance is not None:
        model, inputs = GuidedCausalLM(model, guidance), PAIR
    torch.manual_seed(4)
    plain = model.generate(**inputs, max_new_tokens=24, **settings)[0, 4:].tolist()
    torch.manual_seed(4)
    writing = Writing(model, TOKENIZER, inputs, max_new_tokens=24, **settings)
    text = "".join(writing)
    assert writing.ids == plain
    assert text == TOKENIZER.decode(plain, skip_special_tokens=True)
    assert (writing.prompt_tokens, writing.written_tokens) == (4, len(plain))
    assert writing.finish_reason == ("stop" if plain[-1] == EOS else "length")


def test_what_ends_an_answer(model):
    plain = model.generate(**PROMPT, max_new_tokens=6)[0, 4:].tolist()
    ends = Writing(model, TOKENIZER, PROMPT, max_new_tokens=6, eos_token_id=[plain[2], 258])
    list(ends)
    first = plain.index(plain[2]) + 1
    assert (ends.ids, ends.finish_reason) == (plain[:first], "stop")
    long = Writing(model, TOKENIZER, PROMPT, max_new_tokens=6)
    list(long)
    assert (long.ids, long.finish_reason) == (plain, "length")
    # The last token that it may write ends it too.
    both = Writing(model, TOKENIZER, PROMPT, max_new_tokens=first, eos_token_id=plain[2])
    list(both)
    assert both.finish_reason == "stop"

    class Third(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= 7)

    other = Writing(model, TOKENIZER, PROMPT, max_new_tokens=6, stopping_criteria=[Third()])
    list(other)
    assert (other.ids, other.finish_reason) == (plain[:3], "stopped")


def test_a_model_without_an_end_of_its_own_writes_to_the_limit(model):
    writing = Writing(model, TOKENIZER, PROMPT, max_new_tokens=5, eos_token_id=None)
    list(writing)
    assert writing.written_tokens == 5


@pytest.mark.parametrize("ahead", [1, 4])
def test_no_more_is_written_than_a_few_tokens_ahead(model, ahead):
    watch = Forced(tokens_of("abcdefghijklmnop"))
    writing = Writing(
        model, TOKENIZER, PROMPT, max_new_tokens=40, eos_token_id=257, ahead=ahead, logits_processor=[watch]
    )
    time.sleep(0.05)
    assert watch.drawn == 0  # nobody asked yet
    for read in range(1, 8):
        assert len(next(writing)) == 1
        assert writing.ids == watch.tokens[:read]
        deadline = time.monotonic() + 5
        while watch.drawn < read + ahead and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)
        assert watch.drawn == read + ahead
    writing.stop()
    assert watch.drawn <= 7 + ahead + 1
    assert writing.finish_reason == "stopped"
    assert writing.ids == watch.tokens[:7]
    assert list(writing) == []


def test_it_ends_with_its_context_and_with_who_held_it(model):
    endless = {"max_new_tokens": 50, "eos_token_id": 257}
    with Writing(model, TOKENIZER, PROMPT, logits_processor=[Forced([65])], **endless) as writing:
        next(writing)
        assert len(writing_threads()) == 1
    assert writing_threads() == []
    writing = Writing(model, TOKENIZER, PROMPT, logits_processor=[Forced([65])], **endless)
    next(writing)
    assert len(writing_threads()) == 1
    del writing
    assert writing_threads() == []

    def some():
        yield from Writing(model, TOKENIZER, PROMPT, logits_processor=[Forced([65])], **endless)

    pieces = some()
    next(pieces)
    pieces.close()
    assert writing_threads() == []


def writing_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("lec-guard")]


def test_it_can_be_ended_twice_and_before_it_began_and_after_its_end(model):
    writing = forced(model, tokens_of("abc"))
    writing.stop()
    writing.close()
    assert list(writing) == []
    assert (writing.finish_reason, writing.ids) == ("stopped", [])
    whole = forced(model, tokens_of("abc"))
    assert "".join(whole) == "abc"
    whole.stop()
    assert whole.finish_reason == "length"


def test_it_can_be_ended_by_another_thread_while_it_is_read(model):
    begun, go = threading.Event(), threading.Event()

    class Slow(Forced):
        def __call__(self, input_ids, scores):
            if input_ids.shape[1] > self.start:
                begun.set()
                go.wait(5)
            return super().__call__(input_ids, scores)

    writing = forced(model, tokens_of("abc"), logits_processor=[Slow(tokens_of("abc"))])
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.extend(writing))
    reader.start()
    assert begun.wait(5)
    writing.cancel()
    reader.join(0.05)
    go.set()
    reader.join(5)
    writing.stop()
    assert not reader.is_alive()
    assert (read, writing.finish_reason) == (["a"], "stopped")


def test_it_can_be_ended_from_its_own_thread(model):
    class Own(Forced):
        writing = None

        def __call__(self, input_ids, scores):
            if self.drawn == 3:
                self.writing.stop()
            return super().__call__(input_ids, scores)

    own = Own(tokens_of("abcdefgh"))
    writing = own.writing = forced(model, own.tokens, logits_processor=[own], ahead=1)
    pieces = list(writing)
    assert "".join(pieces) in ("ab", "abc")  # what was read by then
    assert own.drawn == 4
    own.writing = None


@pytest.mark.parametrize("raised", [ValueError("no"), KeyboardInterrupt(), StopIteration()])
def test_what_the_thread_raises_reaches_the_reader(model, raised):
    class Fails(Forced):
        def __call__(self, input_ids, scores):
            if self.drawn == 2:
                raise raised
            return super().__call__(input_ids, scores)

    writing = forced(model, tokens_of("abcd"), logits_processor=[Fails(tokens_of("abcd"))])
    assert next(writing) + next(writing) == "ab"
    with pytest.raises(RuntimeError if isinstance(raised, StopIteration) else type(raised)):
        next(writing)
    assert list(writing) == []


def test_an_error_of_the_model_reaches_the_reader(model):
    with pytest.raises(ValueError, match="not used by the model"):
        list(Writing(model, TOKENIZER, PROMPT, max_new_tokens=3, nonsense=1))


def test_it_runs_in_the_context_of_its_reader(model):
    tenant = contextvars.ContextVar("tenant", default="nobody")
    seen = []

    class Looks(Forced):
        def __call__(self, input_ids, scores):
            seen.append(tenant.get())
            tenant.set("changed")
            return super().__call__(input_ids, scores)

    token = tenant.set("acme")
    list(forced(model, tokens_of("ab"), logits_processor=[Looks(tokens_of("ab"))]))
    assert seen == ["acme", "changed"]
    assert tenant.get() == "acme"
    tenant.reset(token)


def test_several_are_written_at_once(model):
    torch.manual_seed(0)
    alone = ["".join(Writing(model, TOKENIZER, ids, max_new_tokens=12)) for ids in prompts(6)]
    found: list[str] = [""] * 6

    def read(at, ids):
        found[at] = "".join(Writing(model, TOKENIZER, ids, max_new_tokens=12))

    threads = [threading.Thread(target=read, args=(at, ids)) for at, ids in enumerate(prompts(6))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def prompts(count):
    return [{"input_ids": torch.tensor([[40 + at, 50, 60]])} for at in range(count)]


def test_an_interpreter_that_ends_does_not_wait_for_a_reader(tmp_path):
    script = tmp_path / "ends.py"
    script.write_text(
        "import torch\n"
        "from tests.generate.test_writing import *\n"
        "writing = forced(model_of('llama', vocabulary=VOCABULARY), [65], max_new_tokens=50)\n"
        "print(next(writing))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, TOKENIZER.decode([65]) + "\n", "")


# Text that ends an answer.


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("Hello, STOP here", ["STOP"], "Hello, "),
        ("Hello, STOP", ["STOP"], "Hello, "),
        ("STOP", ["STOP"], ""),
        ("STO", ["STOP"], "STO"),
        ("SSTOPP", ["STOP"], "S"),
        ("ababac", ["abac"], "ab"),
        ("one\n\ntwo", ["\n\n", "STOP"], "one"),
        ("abcd", ["abcd", "bc"], "a"),
        ("abcd", ["cd", "bcd"], "a"),
        ("grüße 🙂 x", ["🙂"], "grüße "),
        ("nothing", [], "nothing"),
    ],
)
def test_stop_strings_end_the_text_however_it_comes(model, text, stop, left):
    rng = random.Random(0)
    for _ in range(20):
        stops, found, ended, rest = _Stops(stop), "", False, text
        while rest and not ended:
            size = rng.randint(1, len(rest))
            piece, ended = stops.add(rest[:size])
            found, rest = found + piece, rest[size:]
        assert found + ("" if ended else stops.rest()) == left
    watch = Forced(tokens_of(text))
    writing = Writing(
        model,
        TOKENIZER,
        PROMPT,
        max_new_tokens=len(watch.tokens),
        eos_token_id=257,
        stop=stop,
        logits_processor=[watch],
    )
    assert "".join(writing) == left
    ended = left != text
    assert writing.finish_reason == ("stop" if ended else "length")
    # Not a token more is drawn than the text has up to the end of what ended it, however slow the reader is.
    assert watch.drawn == writing.written_tokens
    if ended:
        assert TOKENIZER.decode(writing.ids).endswith(tuple(stop))


def test_what_may_begin_a_stop_string_waits(model):
    writing = forced(model, tokens_of("a--b---c"), stop=["---"])
    assert list(writing) == ["a", "--b"]


def test_a_stop_string_in_the_last_bytes_counts(model):
    """Bytes that are no character are text only when nothing follows."""
    writing = forced(model, [*tokens_of("ab"), tokens_of("é")[0]], stop=["b\ufffd"])
    assert "".join(writing) == "a"
    assert writing.finish_reason == "stop"


def test_a_stop_string_can_be_a_special_token(model):
    end = TOKENIZER.convert_tokens_to_ids("<|say|>")
    writing = forced(model, [*tokens_of("ab"), end, *tokens_of("cd")], stop=["<|say|>"])
    assert "".join(writing) == "ab"
    assert (writing.ids[-1], writing.finish_reason) == (end, "stop")


def test_what_was_drawn_does_not_depend_on_the_reader(model):
    def state(pause):
        torch.manual_seed(1)
        writing = Writing(
            model, TOKENIZER, PROMPT, max_new_tokens=30, do_sample=True, stop=["a", "e", "o", "\n", "5"], ahead=9
        )
        for _ in writing:
            time.sleep(pause)
        return writing.ids, torch.get_rng_state().tolist()

    assert state(0.0) == state(0.01)


# Tokens to text.


def test_special_tokens_are_left_out_but_for_those_that_are_kept(model):
    ids = [
        *tokens_of("a"),
        TOKENIZER.convert_tokens_to_ids("<|say|>"),
        *tokens_of("<tool_call>"),
        TOKENIZER.convert_tokens_to_ids("<|call|>"),
        *tokens_of("b"),
    ]
    assert "".join(forced(model, ids)) == "a<tool_call>b"
    assert "".join(forced(model, ids, keep=["<|call|>"])) == "a<tool_call><|call|>b"


def test_a_character_waits_for_its_bytes(model):
    assert list(forced(model, tokens_of("aé🙂語b"))) == ["a", "é", "🙂", "語", "b"]
    special = TOKENIZER.convert_tokens_to_ids("<|say|>")
    first, *rest = tokens_of("🙂")
    assert list(forced(model, [first, special, *rest])) == ["🙂"]


def byte_fallback():
    vocabulary = {"<unk>": 0, "\u2581": 1, "\u2581a": 2, "b": 3, "\u2581b": 4}
    vocabulary |= {f"<0x{byte:02X}>": 5 + byte for byte in range(256)}
    own = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    own.pre_tokenizer = pre.Metaspace()
    own.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>")


def pieces_of(tokenizer, ids):
    decoder = Decoder(tokenizer, ())
    return [*(decoder.add(token) for token in ids), decoder.rest()]


def test_text_is_what_all_tokens_together_make():
    """Random bytes are mostly no characters, and sometimes they are."""
    rng = random.Random(1)
    for _ in range(300):
        ids = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 12))]
        ids += tokens_of(rng.choice(["é", "🙂", "a", "\ufffd", "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd"]))
        assert "".join(pieces_of(TOKENIZER, ids)) == TOKENIZER.decode(ids, skip_special_tokens=True)


def test_bytes_that_are_no_characters_do_not_wait_for_ever():
    pieces = pieces_of(TOKENIZER, tokens_of("\ufffd" * 20))
    assert "".join(pieces[:-1]) == "\ufffd" * 18
    assert pieces_of(TOKENIZER, tokens_of("🙂")[:3])[-1] == "\ufffd"


def test_models_of_pieces_with_bytes_are_read_too():
    tokenizer = byte_fallback()
    for text in ("a b", " a", "a  b", "🙂", "a 🙂語 b", "🙂🙂 b"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)
    # What was said is not taken back where bytes that follow make no character.
    ids = [*tokenizer.encode("🙂", add_special_tokens=False)[-4:], 5 + 0xFF, 2]
    assert "".join(pieces_of(tokenizer, ids)).startswith("🙂\ufffd")


# What is refused.


@pytest.mark.parametrize(
    ("inputs", "settings", "words"),
    [
        ({}, {}, "input_ids of shape None is not one prompt"),
        ({"input_ids": torch.ones(2, 3, dtype=torch.long)}, {}, r"shape \(2, 3\) is not one prompt"),
        ({"input_ids": torch.ones(1, 0, dtype=torch.long)}, {}, r"shape \(1, 0\)"),
        (PROMPT, {"max_new_tokens": 0}, "max_new_tokens=0 and ahead=4"),
        (PROMPT, {"ahead": 0}, "ahead=0"),
        (PROMPT, {"stop": "text"}, "stop is 'text'"),
        (PROMPT, {"stop": [""]}, "not empty"),
        (PROMPT, {"num_beams": 2}, "num_beams does not go with"),
        (PROMPT, {"streamer": None}, "streamer does not go with"),
    ],
)
def test_what_is_not_one_text_is_refused(model, inputs, settings, words):
    with pytest.raises(ValueError, match=words):
        Writing(model, TOKENIZER, inputs, **{"max_new_tokens": 3, **settings})


def test_the_names_of_special_tokens_are_those_of_the_tokenizer():
    assert set(SPECIAL) == {TOKENIZER.convert_ids_to_tokens(at) for at in range(VOCABULARY) if at in special()}


def special():
    from lec_guard.generate.decoding import special_ids

    return special_ids(TOKENIZER)
