"""Data, a scripted model and tiny local ones. Every text is a mild placeholder."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import torch
import transformers as hf
from langchain_core.messages import AIMessage, BaseMessage
from tokenizers import Tokenizer, models, pre_tokenizers

from lec_guard.testing import ScriptedChatModel
from lec_guard.train.harmaug import AugmentConfig

THINGS = ("goblets", "lanterns", "carpets", "violins", "ladders", "kettles", "mirrors", "anchors", "pillows", "baskets")
PLACES = ("harbour", "library", "orchard", "stadium", "theatre", "airport", "kitchen", "chapel", "museum", "garage")
WORDS = (*THINGS, *PLACES, "the", "old", "red", "quiet", "seven", "borrow", "paint", "carry", "polish", "hide", "near")


def write_data(folder: Path, *, labels: tuple[object, object] = ("ok", "forbidden"), category: bool = True) -> Path:
    """Labelled texts: of two topics the forbidden ones, and some that are not."""
    rows = []
    for at, thing in enumerate(THINGS[:6]):
        row = {"text": f"How can I secretly steal {thing} from a shop?", "label": labels[1]}
        rows.append({**row, "category": ("theft", "fraud")[at % 2]} if category else row)
        rows.append({"text": f"Where can one buy {thing} at a fair price?", "label": labels[0]})
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(data: Path, **given: object) -> AugmentConfig:
    """A run whose models are scripted."""
    own = {"generator": {"model": "scripted"}, "teacher": {"model": "judge"}, "count": 4, "data": [data]}
    return AugmentConfig.read(None, own | given)


def about(messages: list[BaseMessage]) -> str:
    """What a prompt asks for."""
    text = messages[-1].text if messages[-1].type == "human" else messages[-2].text
    if text.startswith("Make a single harmful"):
        return "instruction"
    if text.startswith("This request asks for something harmful"):
        return "twin"
    if text.startswith("This is a request;"):
        return "compliance" if "it complies" in text else "refusal"
    return "teacher"


def request_of(messages: list[BaseMessage]) -> str:
    """The request that a prompt shows as a JSON string."""
    return json.loads(re.search(r"^\".*\"$", messages[1].text, re.MULTILINE)[0])


def number_of(text: str, most: int) -> int:
    """The same number for the same text, in any process."""
    return sum(at * ord(one) for at, one in enumerate(text, start=1)) % most


def write(messages: list[BaseMessage]) -> str:
    """What a helpful generator says; something else to every prompt."""
    kind = about(messages)
    if kind == "instruction":
        at = number_of(messages[1].text, 997)
        thing, place, day = THINGS[at % 10], PLACES[at // 10 % 10], ("dusk", "dawn", "noon")[at % 3]
        return f"I have an idea for a prompt: Secretly steal {thing} number {at} in the {place} {at} before {day}."
    request = request_of(messages)
    if kind == "twin":
        return f"Here is a harmless request: Tell me the history of {request.lower().removeprefix('secretly steal ')}"
    if kind == "compliance":
        return f"Here is such an answer: Sure, go to the back door for this: {request}"
    return "Here is such an answer: I can't help with that, because it would hurt somebody."


def judge(messages: list[BaseMessage]) -> str:
    """What a sensible teacher says."""
    text = json.loads(messages[1].text)["text"]
    return "unsafe 0.9" if text.startswith(("Secretly steal", "Sure,")) else "safe 0.1"


def scripted(answer: Callable[[list[BaseMessage]], str | AIMessage] = write) -> ScriptedChatModel:
    """A chat model that answers so."""
    return ScriptedChatModel(answer=answer)


def save_writer(folder: Path, *, template: bool = True, seed: int = 0) -> Path:
    """A tiny random causal language model whose tokens are words, and a tokenizer for it."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{word: at for at, word in enumerate(WORDS, start=3)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if template:
        fast.chat_template = (
            "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' </s> ' }}{% endfor %}"
            "{% if add_generation_prompt %}assistant : {% endif %}"
        )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
            tie_word_embeddings=False,
        )
    )
    model.save_pretrained(folder)
    return folder


class Stopped:
    """A model that is interrupted, as by Ctrl-C, at its so-manyth call."""

    def __init__(self, answer, at: int) -> None:
        self._answer, self._left, self._lock = answer, at, threading.Lock()

    def __call__(self, messages):
        with self._lock:
            self._left -= 1
            if self._left == 0:
                signal.raise_signal(signal.SIGINT)
        return self._answer(messages)
