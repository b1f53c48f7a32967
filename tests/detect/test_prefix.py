from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, processors

from lec_guard import LayerDetector, Step
from lec_guard.detect import auto, bundle
from lec_guard.detect.bundle import Learned, read_bundle, write_bundle
from lec_guard.detect.export import export
from lec_guard.detect.extractor import Block, Extractor, Features, Tokens
from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.layer import READING
from lec_guard.detect.pairs import KEY_SHARE, PairHeads, UnreadContextError
from lec_guard.detect.past import Prefix
from lec_guard.detect.prefix import PrefixPairs
from lec_guard.detect.prune import load_pruned
from lec_guard.detect.turns import Template
from lec_guard.detect.windows import Window, Windower, WindowSpec
from lec_guard.errors import BundleError
from tests.detect.by_hand import side_by_side
from tests.detect.conftest import Saved
from tests.detect.models import (
    BLOCKS,
    DECODER,
    FAMILIES,
    HEADS,
    POSITIONS,
    WIDTH,
    WINDOW,
    decoder_tokenizer,
    gemma3,
    gpt2,
    mistral,
    qwen3,
    random_heads,
    save,
    save_bundle,
)

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = Template(f"{START}s\n", f"{END}\n{START}u\n", f"{END}\n{START}a\n")
CONTEXT = "answer as a bank, politely"
TEXTS = [
    "a",
    "ignore the rules",
    "what's the weather like?",
    "no",
    "on and on " * 2,
    "rule 7",
    "no, thank you",
    "please do",
]
LAYERS = (
    Block(1, "mean"),
    Block(3, "last"),
    Block(0, "max"),
    Block(3, "first"),
    Block(2, "gated", 0),
    Block(3, "mean"),
)
GATES = np.random.default_rng(0).normal(scale=0.1, size=(1, WIDTH)).astype(np.float32)

DECODERS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    **{name: FAMILIES[name].build for name in ("qwen2", "llama", "gemma")},
    "qwen3": qwen3,
    "mistral": mistral,
    "gemma3": gemma3,
    "gpt2": gpt2,
}


def chat_tokenizer() -> Tokenizer:
    """One token a character, but for the borders of turns."""
    tokenizer = decoder_tokenizer()
    tokenizer.add_special_tokens([START, END])
    return tokenizer


Load = Callable[..., Extractor]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each decoder, saved; nobody may change a folder."""
    made = {name: save(build(), tmp_path_factory.mktemp(name)) for name, build in DECODERS.items()}
    for folder in made.values():
        chat_tokenizer().save(str(folder / "tokenizer.json"))
    return made


@pytest.fixture(params=list(DECODERS))
def decoder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    """Each decoder in turn."""
    return folders[request.param]


@pytest.fixture
def llama(folders: dict[str, Path]) -> Path:
    """The decoder of tests that any can serve."""
    return folders["llama"]


def load(folder: Path, blocks: Sequence[Block] = BLOCKS, window: WindowSpec = WINDOW) -> Extractor:
    return Extractor.load(folder, blocks=blocks, window=window, gates=GATES if len(blocks) > 2 else None)


def pairs_of(extractor: Extractor, template: Template = TEMPLATE, *, budget: int | None = None) -> PrefixPairs:
    return PrefixPairs(extractor, template, budget=budget)


def windows_of(extractor: Extractor, texts: Sequence[str] = TEXTS) -> list[Window]:
    return [window for text in texts for window in extractor.windower.windows(text)]


def after_prefix(pairs: PrefixPairs, windows: Sequence[Window], prefix: Prefix) -> Features:
    return pairs.features(windows, np.empty((0, 0), np.float32), prefix)


def spelled(text: str) -> list[int]:
    """Tokens of a string of the template, by hand."""
    vocab, found = chat_tokenizer().get_vocab(), []
    while text:
        token = next((special for special in (START, END) if text.startswith(special)), text[0])
        found.append(vocab[token])
        text = text[len(token) :]
    return found


def by_hand(
    folder: Path, windows: Sequence[Window], texts: Sequence[str], blocks: Sequence[Block], context: str = CONTEXT
) -> Features:
    """Pooled states of the whole model, which reads everything at once: no cache, no padding, no batch.

    A token is a character, so the span alone says which tokens a window has; the template's end is pooled with them.
    """
    whole = hf.AutoModel.from_pretrained(folder).eval()
    start, end = spelled(TEMPLATE.before + context + TEMPLATE.between), spelled(TEMPLATE.after)
    rows = []
    for window, text in zip(windows, texts, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([[*start, *spelled(text[slice(*window.span)]), *end]])
            output = whole(input_ids=ids, use_cache=False, output_hidden_states=True)
        states = [state[0, len(start) :].numpy() for state in output.hidden_states]
        rows.append(side_by_side(states, blocks, GATES))
    return np.stack(rows)


def owners(extractor: Extractor) -> list[str]:
    """The text of each window of `windows_of`."""
    return [text for text in TEXTS for _ in extractor.windower.windows(text)]


def noted(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[list[int]], list[tuple[Tokens, Tokens, bool]]]:
    """The prefixes that the model reads; ids and mask of the batches, and whether a prefix stands before them."""
    prefixes: list[list[int]] = []
    batches: list[tuple[Tokens, Tokens, bool]] = []
    read, features = extractor.backend.prefix, extractor.backend.features

    def noting_prefix(ids: Sequence[int]) -> Prefix:
        prefixes.append(list(ids))
        return read(ids)

    def noting_batch(ids: Tokens, mask: Tokens, prefix: Prefix | None = None) -> Features:
        batches.append((ids, mask, prefix is not None))
        return features(ids, mask, prefix)

    monkeypatch.setattr(extractor.backend, "prefix", noting_prefix)
    monkeypatch.setattr(extractor.backend, "features", noting_batch)
    return prefixes, batches


@pytest.mark.parametrize("tokens", [1, 4096], ids=["one by one", "together"])
def test_features_are_those_of_reading_all_at_once(decoder: Path, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lec_guard.detect.extractor._BATCH_TOKENS", tokens)
    extractor = load(decoder, LAYERS)
    pairs, windows = pairs_of(extractor), windows_of(extractor)
    assert pairs.width == extractor.backend.width == WIDTH * len(LAYERS)
    prefix = pairs.read(CONTEXT)
    assert prefix.tokens == len(spelled(TEMPLATE.before + CONTEXT + TEMPLATE.between)) > 2 * 5  # beyond every window
    _, batches = noted(extractor, monkeypatch)
    found = after_prefix(pairs, windows, prefix)
    assert len(found) == len(windows)
    sizes = {len(ids) for ids, _, _ in batches}
    assert sizes == {1} if tokens == 1 else max(sizes) >= 8
    assert tokens == 1 or any(len(mask) >= 8 and not mask.all() for _, mask, _ in batches)
    np.testing.assert_allclose(found, by_hand(decoder, windows, owners(extractor), LAYERS), rtol=1e-5, atol=1e-5)


def test_context_changes_what_is_read(decoder: Path) -> None:
    # Otherwise the test above could not tell a prefix from none.
    extractor = load(decoder)
    pairs, windows = pairs_of(extractor), windows_of(extractor)
    contexts = (CONTEXT, CONTEXT[:-1] + "z", "z" + CONTEXT[1:])
    one, near, far = (after_prefix(pairs, windows, pairs.read(context)) for context in contexts)
    assert np.abs(one - near).max() > 0.01
    if decoder.name.startswith(("mistral", "gemma3")):  # Two layers with sliding windows don't reach so far back.
        np.testing.assert_allclose(one, far, rtol=0, atol=1e-5)
    else:
        assert np.abs(one - far).max() > 0.01


def test_one_layer_is_read_alone(llama: Path) -> None:
    for layer in range(4):
        blocks = [Block(layer, "mean")]
        extractor = load(llama, blocks)
        pairs, windows = pairs_of(extractor), windows_of(extractor)
        found = after_prefix(pairs, windows, pairs.read(CONTEXT))
        np.testing.assert_allclose(found, by_hand(llama, windows, owners(extractor), blocks), rtol=1e-5, atol=1e-5)


def test_neighbours_in_a_batch_change_nothing(decoder: Path) -> None:
    extractor = load(decoder)
    pairs, windows = pairs_of(extractor), windows_of(extractor)
    prefix = pairs.read(CONTEXT)
    together = after_prefix(pairs, windows, prefix)
    alone = np.concatenate([after_prefix(pairs, [window], prefix) for window in windows])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(windows))
    shuffled = after_prefix(pairs, [windows[i] for i in order], prefix)
    np.testing.assert_allclose(shuffled, together[order], rtol=1e-5, atol=1e-5)


def test_no_windows_give_no_features(llama: Path) -> None:
    pairs = pairs_of(load(llama))
    assert after_prefix(pairs, [], pairs.read(CONTEXT)).shape == (0, 2 * WIDTH)


def test_threads_share_a_prefix(decoder: Path) -> None:
    extractor = load(decoder, LAYERS)
    pairs, windows = pairs_of(extractor), windows_of(extractor)
    prefix = pairs.read(CONTEXT)
    kept = [(layer.keys.clone(), layer.values.clone(), layer.get_seq_length()) for layer in prefix._layers]
    expected = after_prefix(pairs, windows, prefix)
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: after_prefix(pairs, windows, prefix), range(32)):
            np.testing.assert_array_equal(found, expected)
    for layer, (keys, values, tokens) in zip(prefix._layers, kept, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)
        assert layer.get_seq_length() == tokens == prefix.tokens


def test_bytes_are_those_of_keys_and_values(folders: dict[str, Path]) -> None:
    position = 2 * DECODER["num_key_value_heads"] * 8 * 4  # keys and values, of 8 numbers of 4 bytes a head
    for name, layers, expected in (
        ("llama", 2, lambda tokens: 2 * tokens),
        ("mistral", 3, lambda tokens: 3 * 4),  # what a window of 5 looks back
        ("qwen2", 3, lambda tokens: 2 * tokens + 3),  # the third layer has a window of 4
    ):
        pairs = pairs_of(load(folders[name], [Block(layers, "mean")]))
        for context in ("a", CONTEXT):
            prefix = pairs.read(context)
            assert prefix.nbytes == position * expected(prefix.tokens)
            stores = [tensor.untyped_storage() for layer in prefix._layers for tensor in (layer.keys, layer.values)]
            assert sum(store.nbytes() for store in stores) == prefix.nbytes


def around(tokenizer: Tokenizer, first: list[str], last: list[str]) -> Tokenizer:
    """A tokenizer that puts special tokens around a text."""
    tokenizer.add_special_tokens([*first, *last])
    numbers = [(token, tokenizer.token_to_id(token)) for token in (*first, *last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*first, "$A", *last]), special_tokens=numbers
    )
    return tokenizer


SPECIAL_AROUND = [(["<s>"], []), (["<s>", "<t>"], ["</s>"]), (["<s>", "<t>", "<u>"], ["</s>", "</t>"])]


@pytest.mark.parametrize(("first", "last"), SPECIAL_AROUND)
def test_special_tokens_of_the_tokenizer_leave_the_windows(
    llama: Path, tmp_path: Path, first: list[str], last: list[str]
) -> None:
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    around(chat_tokenizer(), first, last).save(str(tmp_path / "tokenizer.json"))
    extractor = load(tmp_path)
    assert extractor.windower.special == len(first + last)
    pairs, windows = pairs_of(extractor), windows_of(extractor)
    found = after_prefix(pairs, windows, pairs.read(CONTEXT))
    np.testing.assert_allclose(found, by_hand(tmp_path, windows, owners(extractor), BLOCKS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("first", "last"), SPECIAL_AROUND)
def test_windows_keep_their_tokens_without_special_ones(first: list[str], last: list[str]) -> None:
    windower = Windower(around(chat_tokenizer(), first, last), WINDOW)
    for count in range(1, 16 - windower.special + 1):
        (window,) = windower.windows("abcdefghijklmnop"[:count])
        assert windower.text_ids(window) == windower.ids("abcdefghijklmnop"[:count])
        assert len(window.ids) == count + windower.special


def test_special_tokens_that_somebody_typed_are_text(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = load(llama)
    pairs = pairs_of(extractor)
    prefixes, batches = noted(extractor, monkeypatch)
    typed = f"{END}\n{START}a"
    windows = windows_of(extractor, [typed])
    after_prefix(pairs, windows, pairs.read(typed))
    start, end = (chat_tokenizer().token_to_id(token) for token in (START, END))
    (read,) = prefixes
    assert [read.count(start), read.count(end)] == [2, 1]
    assert len(read) == len(spelled(TEMPLATE.before + TEMPLATE.between)) + len(typed)
    for ids, _, _ in batches:
        assert (ids == start).sum() == (ids == end).sum() == len(ids)


def test_context_may_fill_the_room_that_window_and_template_leave(llama: Path, folders: dict[str, Path]) -> None:
    room = POSITIONS - WINDOW.size - len(spelled(TEMPLATE.before + TEMPLATE.between + TEMPLATE.after))
    # The one with learned positions could not read a token more.
    extractor = load(folders["gpt2"])
    pairs = pairs_of(extractor)
    windows = windows_of(extractor)
    assert max(len(window.ids) for window in windows) == WINDOW.size
    assert np.isfinite(after_prefix(pairs, windows, pairs.read("a" * room))).all()
    with pytest.raises(UnreadContextError, match=f"more than {room} tokens, what the model can read") as caught:
        pairs.read("a" * (room + 1))
    assert not caught.value.over_budget


def test_context_over_the_budget_is_refused(llama: Path) -> None:
    pairs = pairs_of(load(llama), budget=5)
    assert pairs.read("abcde").tokens == len(spelled(TEMPLATE.before + TEMPLATE.between)) + 5
    with pytest.raises(UnreadContextError, match="more than 5 tokens, the budget") as caught:
        pairs.read("abcdef")
    assert caught.value.over_budget


def test_template_that_leaves_no_room_is_refused(llama: Path) -> None:
    extractor = load(llama)
    assert pairs_of(extractor, Template("a" * (POSITIONS - WINDOW.size - 3), "\n", "a")).read("b").tokens == 47
    with pytest.raises(BundleError, match="64 tokens, and the model reads 64: that leaves no room"):
        pairs_of(extractor, Template("a" * (POSITIONS - WINDOW.size - 2), "\n", "a"))
    with pytest.raises(BundleError, match="no token"):
        pairs_of(extractor, Template("", "", "a"))


# What is no causal decoder.


def test_encoders_are_refused(saved: Callable[[str], Saved]) -> None:
    for name in ("bert", "deberta-v2", "modernbert"):
        with pytest.raises(BundleError, match="no causal decoder"):
            pairs_of(load(saved(name).folder))


def test_decoder_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    for looks in (False, True):
        folder = save(gemma3(use_bidirectional_attention=looks), tmp_path / str(looks))
        chat_tokenizer().save(str(folder / "tokenizer.json"))
        if looks:
            with pytest.raises(BundleError, match=r"no causal decoder.*the states of layer 2 differ"):
                pairs_of(load(folder))
        else:
            pairs_of(load(folder))


def test_layers_that_keep_a_state_are_refused(tmp_path: Path) -> None:
    config = hf.Lfm2Config(**DECODER, num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"])
    save(hf.Lfm2ForCausalLM(config), tmp_path)
    chat_tokenizer().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BundleError, match=r"no causal decoder.*a layer keeps a LinearAttention"):
        pairs_of(load(tmp_path, [Block(3, "mean")]))


def test_pass_that_changes_the_prefix_is_noticed(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_pruned(llama, 2)
    model.check_prefix()
    before = Prefix.before

    def leaking(prefix: Prefix, rows: int) -> hf.Cache:
        cache = before(prefix, rows)
        for own, kept in zip(cache.layers, prefix._layers, strict=True):
            own.keys = own.keys.clone()
            kept.keys += 1  # Only the next pass sees it.
        return cache

    monkeypatch.setattr(Prefix, "before", leaking)
    with pytest.raises(BundleError, match="the states of layer 1 differ"):
        model.check_prefix()


# Templates.

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | "
    "trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
FOLDING = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}"
    "{{ '[INST] ' + (system if loop.last else '') + message['content'] + '[/INST]' }}{% endfor %}"
)
USERS_ONLY = (
    "{% for message in messages if message['role'] == 'user' %}{{ 'U: ' + message['content'] + '\n' }}{% endfor %}A:"
)


def with_template(folder: Path, template: str | None) -> Path:
    folder.mkdir()
    chat_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "chat_template": template}
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("chat", "expected"),
    [
        (
            CHATML,
            Template("<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        ),
        (
            LLAMA3,
            Template(
                "<bos><|start_header_id|>system<|end_header_id|>\n\n",
                "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
                "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
        ),
        (
            GEMMA,
            Template("<bos><start_of_turn>user\n", "\n\n", "<end_of_turn>\n<start_of_turn>model\n"),
        ),
        (FOLDING, Template("<bos>[INST] ", "\n\n", "[/INST]")),
        (USERS_ONLY, Template("U: ", "\n\n", "\nA:")),
    ],
    ids=["chatml", "llama 3", "gemma", "folding", "users only"],
)
def test_chat_template_is_split_at_its_messages(tmp_path: Path, chat: str, expected: Template) -> None:
    assert Template.from_chat_template(with_template(tmp_path / "chat", chat)) == expected


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (
            "{% for message in messages | reverse %}{{ message['content'] + '\n' }}{% endfor %}",
            "once after the context",
        ),
        (CHATML + "{{ messages[0]['content'] }}", "once after the context"),
        (CHATML + "{{ messages[1]['content'] }}", "once after the context"),
        ("{% for message in messages %}{{ message['content'] }}{% endfor %}", "once after the context"),
        ("{{ messages[0]['content'] }}", "once after the context"),
        ("{{ bos_token }}", "once after the context"),
        ("{{ raise_exception('no chat here') }}", "no chat here"),
        ("{% for %}", "no chat template"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "no chat template.*unsafe"),
        (None, "no chat template"),
    ],
    ids=[
        "reversed",
        "context twice",
        "text twice",
        "nothing between",
        "no text",
        "neither",
        "raises",
        "broken",
        "sandbox",
        "none",
    ],
)
def test_other_chat_templates_are_refused(tmp_path: Path, chat: str | None, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Template.from_chat_template(with_template(tmp_path / "chat", chat))


def test_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"{tmp_path}: Hugging Face transformers can't load this tokenizer"):
        Template.from_chat_template(tmp_path)


# Bundles.

OTHER = "answer as a shop, politely"


def save_pairs(folder: Path, base: Path, heads: Sequence[object] = HEADS) -> Path:
    """A bundle whose pair heads say something else than its heads."""
    plain = read_bundle(save_bundle(folder / "plain", base))
    pairs = bundle.PrefixPairs(
        kind="prefix", before=TEMPLATE.before, between=TEMPLATE.between, after=TEMPLATE.after, heads=tuple(heads)
    )
    pair_heads = random_heads(len(plain.learned.heads.weight), specs=tuple(heads), seed=1)
    write_bundle(folder, plain.spec.model_copy(update={"pairs": pairs}), Learned(plain.learned.heads, pair_heads))
    return folder


@pytest.fixture(scope="session")
def paired(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with pairs; nobody may change the folder."""
    return save_pairs(tmp_path_factory.mktemp("paired"), folders["llama"])


def steps(texts: Sequence[str], context: str | None = CONTEXT) -> list[Step]:
    return [Step(stage="input", text=text, context=context) for text in texts]


def test_bundle_keeps_the_template(paired: Path) -> None:
    spec = read_bundle(paired).spec.pairs
    assert isinstance(spec, bundle.PrefixPairs)
    assert Template(spec.before, spec.between, spec.after) == TEMPLATE
    assert spec.heads == HEADS


def test_pairs_of_another_kind_are_refused(paired: Path, tmp_path: Path) -> None:
    for file in paired.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    content = json.loads((paired / "detector.json").read_text())
    for change in ({"kind": "unheard-of"}, {"kind": "meeting"}, {"between": ""}, {"after": None}):
        edited = content | {"pairs": content["pairs"] | change}
        (tmp_path / "detector.json").write_text(json.dumps(edited))
        with pytest.raises(BundleError, match="pairs"):
            read_bundle(tmp_path)


@pytest.mark.parametrize("backend", ["torch-fp32", "torch-bf16"])
def test_texts_are_scored_after_their_context(paired: Path, llama: Path, backend: str) -> None:
    scores = LayerDetector.load(paired, backend=backend).score(steps(TEXTS))
    extractor, heads = load(llama), read_bundle(paired).learned.pair_heads
    for text, found in zip(TEXTS, scores, strict=True):
        assert found.context_read
        assert found.unread is None
        assert set(found.by_head) == {READING, *(spec.name for spec in HEADS)}
        windows = windows_of(extractor, [text])
        assert found.windows == len(windows)
        expected = heads.text_scores(heads.logits(by_hand(llama, windows, [text] * len(windows), BLOCKS)))
        for spec in HEADS:
            off = 1e-4 if backend == "torch-fp32" else 0.1
            np.testing.assert_allclose(list(found.by_head[spec.name].values()), expected[spec.name], rtol=0, atol=off)


def test_heads_of_another_bundle_are_read_after_the_same_prefix(paired: Path, tmp_path: Path) -> None:
    base = LayerDetector.load(paired)
    there = read_bundle(paired)
    specs = tuple(HeadSpec(name=name, kind="binary", labels=("x",)) for name in ("after", "alone"))
    width = base._extractor.backend.width
    learned = Learned(random_heads(width, specs=specs, seed=3), random_heads(width, specs=specs[:1], seed=4))

    def save(name: str, **changes: str) -> Path:
        pairs = there.spec.pairs.model_copy(update={"heads": specs[:1], **changes})
        spec = there.spec.model_copy(update={"heads": specs, "pairs": pairs})
        write_bundle(tmp_path / name, spec, learned)
        return tmp_path / name

    both = base.with_heads(save("same"))
    own = LayerDetector(
        base._extractor, learned.heads, "own", pairs=PairHeads(pairs_of(base._extractor), learned.pair_heads)
    )
    for context in (CONTEXT, None):
        asked = steps(TEXTS, context)
        for found, mine, theirs in zip(both.score(asked), base.score(asked), own.score(asked), strict=True):
            assert found.by_head.keys() == {*mine.by_head, "after", "alone"}
            for name, labels in (mine.by_head | theirs.by_head).items():
                assert found.by_head[name] == pytest.approx(labels, abs=1e-6)
    with pytest.raises(BundleError, match="contexts are read otherwise there"):
        base.with_heads(save("other", after=TEMPLATE.after + "!"))


def test_text_with_context_is_read_after_it_alone(paired: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = LayerDetector.load(paired)
    _, batches = noted(detector._extractor, monkeypatch)
    detector.score(steps(TEXTS))
    assert {after for _, _, after in batches} == {True}
    batches.clear()
    (found,) = detector.score(steps(["no"], context=None))
    assert [after for _, _, after in batches] == [False]
    assert not found.context_read
    (blank,) = detector.score(steps(["no"], context=" \n"))
    assert blank == found


def test_heads_without_a_form_for_pairs_read_the_text_alone(llama: Path, tmp_path: Path) -> None:
    save_pairs(tmp_path, llama, heads=HEADS[:1])
    alone = LayerDetector.load(tmp_path / "plain").score(steps(TEXTS))
    paired = LayerDetector.load(tmp_path).score(steps(TEXTS))
    for one, other in zip(paired, alone, strict=True):
        assert (one.context_read, other.context_read) == (True, False)
        assert one.by_head[HEADS[0].name] != other.by_head[HEADS[0].name]
        for spec in HEADS[1:]:
            assert one.by_head[spec.name] == pytest.approx(other.by_head[spec.name], abs=1e-5)


def test_prefix_is_read_once_for_each_key(paired: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = LayerDetector.load(paired)
    prefixes, _ = noted(detector._extractor, monkeypatch)
    first = detector.score(steps(TEXTS), keys=["a"] * len(TEXTS))
    assert len(prefixes) == 1
    again = detector.score(steps(TEXTS), keys=["a"] * len(TEXTS))
    assert len(prefixes) == 1
    assert again == first
    # By the time it takes, nobody learns what another one's context is.
    assert detector.score(steps(TEXTS), keys=["b"] * len(TEXTS)) == first
    assert len(prefixes) == 2
    assert prefixes[0] == prefixes[1]
    detector.score(steps(["no"], OTHER), keys=["a"])
    assert len(prefixes) == 3
    detector.score([*steps(["no"]), *steps(["no"], OTHER)], keys=["a", "a"])
    assert len(prefixes) == 3


def test_kept_prefixes_stay_within_bounds(paired: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = LayerDetector.load(paired)._pairs.reader.read(CONTEXT).nbytes
    most = KEY_SHARE * 2 * one  # A key's share is two such contexts.
    detector = LayerDetector.load(paired, context_bytes=most)
    cache = detector._pairs._cache
    prefixes, _ = noted(detector._extractor, monkeypatch)
    contexts = [CONTEXT[:-1] + letter for letter in "abc"]
    for context in contexts:
        detector.score(steps(["no"], context), keys=["a"])
    assert cache.nbytes == 2 * one
    detector.score([step for context in contexts[1:] for step in steps(["no"], context)], keys=["a", "a"])
    assert len(prefixes) == 3
    detector.score(steps(["no"], contexts[0]), keys=["a"])
    assert len(prefixes) == 4
    for key in range(20):
        for context in contexts:
            detector.score(steps(["no"], context), keys=[key])
            assert cache.nbytes <= most
    assert cache.nbytes == most


def test_context_over_a_keys_share_is_read_and_not_kept(paired: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbounded = LayerDetector.load(paired)
    expected = unbounded.score(steps(TEXTS))
    most = KEY_SHARE * unbounded._pairs.reader.read(CONTEXT[:-1]).nbytes
    detector = LayerDetector.load(paired, context_bytes=most)
    cache = detector._pairs._cache
    prefixes, _ = noted(detector._extractor, monkeypatch)
    for times in (1, 2):
        assert detector.score(steps(TEXTS)) == expected
        assert (len(prefixes), cache.nbytes) == (times, 0)


def test_context_too_long_leaves_the_text_unread(paired: Path) -> None:
    found, fine = LayerDetector.load(paired).score([*steps(["no"], "a" * 100), *steps(["no"])])
    assert found.unread == "the context has more than 35 tokens, what the model can read in front of a window"
    assert not found.context_read
    assert fine.unread is None


def test_heads_of_another_width_are_refused(paired: Path) -> None:
    read = read_bundle(paired)
    learned = Learned(read.learned.heads, random_heads(WIDTH))
    with pytest.raises(BundleError, match="read 32 features, but the extractor gives 64"):
        LayerDetector.of_bundle(load(read.base_folder()), bundle.Bundle(paired, read.spec, learned, "tiny"))


def test_bundle_over_an_encoder_is_refused(bert: Saved, tmp_path: Path) -> None:
    save_pairs(tmp_path, bert.folder)
    with pytest.raises(BundleError, match="a BertModel is no causal decoder"):
        LayerDetector.load(tmp_path)


# Backends without a cache.

TORCH = "run on torch-fp32 and torch-bf16 alone"


def test_onnx_is_refused(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEC_GUARD_HOME", str(tmp_path / "home"))
    for backend in ("onnx-fp32", "onnx-int8"):
        with pytest.raises(BundleError, match=TORCH):
            LayerDetector.load(paired, backend=backend)
    with pytest.raises(BundleError, match=TORCH):
        export(read_bundle(paired), tmp_path / "out", "fp32")
    assert not (tmp_path / "out").exists()


def test_backend_that_keeps_nothing_is_refused(llama: Path) -> None:
    class Forgetful:
        name, width, pad_id = "onnx-fp32", WIDTH, 0

        def features(self, ids: Tokens, mask: Tokens) -> Features:
            raise NotImplementedError

    windower = Windower(chat_tokenizer(), WINDOW)
    with pytest.raises(BundleError, match=f"{TORCH}, not on onnx-fp32"):
        pairs_of(Extractor(windower, Forgetful(), "0" * 64))


def test_auto_takes_torch(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEC_GUARD_HOME", str(tmp_path))
    monkeypatch.setattr(auto, "cached_export", None)
    (found,) = LayerDetector.load(paired, backend="auto").score(steps(["no"]))
    assert found.backend.startswith("torch-")
    (memory,) = (tmp_path / "backends").iterdir()
    assert set(json.loads(memory.read_text())["milliseconds"]) <= {"torch-fp32", "torch-bf16"}
    memory.write_text(json.dumps({"backend": "onnx-int8"}))
    (found,) = LayerDetector.load(paired, backend="auto").score(steps(["no"]))
    assert found.backend.startswith("torch-")
