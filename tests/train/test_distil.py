from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from lec_guard.detect.adapters import Adapters, averaged, scaled
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.prune import load_pruned
from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.train import distil as tuning
from lec_guard.train.checkpoint import CHECKPOINT
from lec_guard.train.distil import DistilBlock, DistilConfig, Distilled, distil
from lec_guard.train.fit import text_logits
from lec_guard.train.lessons import LessonExample, hold_out
from lec_guard.train.select import Bags, fit_bags
from lec_guard.train.tuned import write_base
from tests.detect.models import decoder_tokenizer, gpt2, save, save_family
from tests.train.lessons import SAFETY, TOPIC, config, either, example, lesson

NAMES = ("bert", "modernbert", "qwen2", "llama")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a family -> its folder; nobody may change it."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = save_family(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def read(folder: Path, own: DistilConfig, adapters: Adapters | None, examples: list[LessonExample]) -> tuple:
    extractor = Extractor.load(folder, blocks=own.read, window=own.window.spec, adapters=adapters)
    windows = [list(extractor.windower.windows(one.text, as_meant=False)) for one in examples]
    owner = np.repeat(np.arange(len(windows)), [len(some) for some in windows])
    return extractor.features([one for some in windows for one in some]), owner


def auc(folder: Path, own: DistilConfig, adapters: Adapters | None, held: tuple[str, ...]) -> float:
    """Of held-out families, by a head that is fitted to the others anew."""
    examples = either()
    seen = [one for one in examples if one.family not in held]
    unseen = [one for one in examples if one.family in held]
    features, owner = read(folder, own, adapters, seen)
    targets = np.eye(2, dtype=np.float32)[[one.label for one in seen]]
    bags = Bags(targets=targets, families=np.array([one.family for one in seen]), owner=owner)
    columns = fit_bags(features, bags, np.ones(len(features), np.bool_), c=0.1)
    features, owner = read(folder, own, adapters, unseen)
    logits = text_logits(columns.logits(features)[:, 0], owner, len(unseen), 1.0)
    return float(roc_auc_score([one.label for one in unseen], logits))


def same(one: Distilled, two: Distilled) -> bool:
    if one.adapters is not None and two.adapters is not None:
        return one.adapters.digest() == two.adapters.digest() and np.array_equal(one.heads.weight, two.heads.weight)
    assert one.tuned is not None
    assert two.tuned is not None
    return all(torch.equal(own, two.tuned[name]) for name, own in one.tuned.items())


# That it learns


TERMS = {
    "labels": {},
    "low_fpr": {"low_fpr": 0.5, "sharpness": 0.5},
    "worst_families": {"worst_families": 1.0},
    "autocast": {"autocast": True},
}


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_families_that_nothing_has_seen_are_told_apart_better(
    base: Callable[[str], Path], terms: dict[str, object]
) -> None:
    own, folder = config(epochs=8, **terms), base("modernbert")
    found = distil([lesson()], folder, own)
    assert found.finished
    assert found.held == tuple(sorted(hold_out([lesson()])))
    before, after = auc(folder, own, None, found.held), auc(folder, own, found.adapters, found.held)
    assert before < 0.75
    assert after > 0.95
    # Its own heads say so too, and the right way round.
    unseen = [one for one in either() if one.family in found.held]
    features, owner = read(folder, own, found.adapters, unseen)
    logits = text_logits(found.heads.logits(features)[:, 0], owner, len(unseen), 1.0)
    assert roc_auc_score([one.label for one in unseen], logits) > 0.9
    assert found.losses[-1] < 0.5 * found.losses[0]


def test_what_adapters_read_is_left_out_at_random(base: Callable[[str], Path]) -> None:
    runs = [distil([lesson()], base("bert"), config(epochs=1, dropout=dropout)) for dropout in (0.0, 0.5)]
    assert not same(*runs)
    full = [config(epochs=1, dropout=dropout, full=True, rate=0.001) for dropout in (0.0, 0.5)]
    assert not same(*(distil([lesson()], base("bert"), own) for own in full))


def test_a_teacher_alone_is_enough(base: Callable[[str], Path]) -> None:
    taught = [example(one.text, None, one.family, soft=0.95 if one.label else 0.05) for one in either()]
    own, folder = config(epochs=8), base("modernbert")
    found = distil([lesson(taught)], folder, own)
    assert auc(folder, own, found.adapters, found.held) > 0.95


def test_a_teacher_who_says_the_opposite_of_the_labels_is_heard(base: Callable[[str], Path]) -> None:
    taught = [example(one.text, one.label, one.family, soft=0.0 if one.label else 1.0) for one in either()]
    found = distil([lesson(taught)], base("modernbert"), config(epochs=8))
    assert found.losses[-1] > 0.6  # nothing pleases both


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_learns(base: Callable[[str], Path], name: str) -> None:
    found = distil([lesson()], base(name), config(epochs=3))
    assert found.adapters is not None
    assert {name.partition(".")[0] for name in found.adapters.factors} == {"1", "2"}
    moved = [float(np.abs(own.b).max()) for own in found.adapters.factors.values()]
    assert min(moved) > 0
    # What training read is what the merged model gives, but for dropout.
    own = config()
    features, owner = read(base(name), own, found.adapters, either(40))
    logits = found.heads.logits(features)[:, 0]
    assert np.isfinite(text_logits(logits, owner, 40, 1.0)).all()


def test_matrices_that_lie_transposed_are_adapted_too(tmp_path: Path) -> None:
    save(gpt2(), tmp_path)
    decoder_tokenizer().save(str(tmp_path / "tokenizer.json"))
    found = distil([lesson()], tmp_path, config(epochs=1))
    assert found.adapters is not None
    Extractor.load(tmp_path, blocks=[Block(2, "mean")], window=config().window.spec, adapters=found.adapters)


def test_what_training_reads_is_what_the_merged_model_gives(
    base: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, own = base("bert"), config(dropout=0.0, epochs=1)
    runs = []
    made = tuning._Run.__init__

    def keep(self: tuning._Run, *arguments: object) -> None:
        made(self, *arguments)
        runs.append(self)

    monkeypatch.setattr(tuning._Run, "__init__", keep)
    found = distil([lesson()], folder, own)
    extractor = Extractor.load(folder, blocks=own.read, window=own.window.spec, adapters=found.adapters)
    windows = [window for one in either(30) for window in extractor.windower.windows(one.text, as_meant=False)]
    with torch.no_grad():
        trained = runs[0]._features([window.ids for window in windows]) * runs[0]._deviation + runs[0]._mean
    expected = extractor.features(windows)
    np.testing.assert_allclose(trained.numpy(), expected, rtol=1e-5, atol=1e-5 * float(np.abs(expected).max()))


def test_several_heads_learn_in_one_pass(base: Callable[[str], Path]) -> None:
    examples = either()
    topics = [
        example(one.text, 1 if "weather" in one.text else 2 * ("rules" in one.text), one.family) for one in examples
    ]
    levels = [example(one.text, one.label and 1 + at % 3, one.family) for at, one in enumerate(examples)]
    found = distil(
        [lesson(examples), lesson(topics, TOPIC), lesson(levels, SAFETY)], base("modernbert"), config(epochs=8)
    )
    assert [spec.name for spec in found.heads.specs] == ["mine", "topic", "safety"]
    features, owner = read(base("modernbert"), config(), found.adapters, examples)
    unseen = np.array([one.family in found.held for one in examples])
    labels = np.array([one.label for one in topics])
    logits = found.heads.logits(features)
    said = np.array([list(found.heads.text_scores(logits[owner == text])["topic"]) for text in np.flatnonzero(unseen)])
    assert roc_auc_score(labels[unseen] == 1, said[:, 0]) > 0.9


# That it does so again, and goes on


def test_a_seed_decides_every_bit(base: Callable[[str], Path]) -> None:
    own = config(low_fpr=0.3, worst_families=0.5)
    torch.manual_seed(1)
    one = distil([lesson()], base("bert"), own)
    torch.manual_seed(2)
    two = distil([lesson()], base("bert"), own)
    assert same(one, two)
    assert not same(one, distil([lesson()], base("bert"), config(low_fpr=0.3, worst_families=0.5, seed=1)))


@pytest.mark.parametrize("full", [False, True])
def test_a_run_that_goes_on_ends_with_the_same_bits(
    base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, full: bool
) -> None:
    own = config(full=full, rate=0.001 if full else 0.01, low_fpr=0.3, worst_families=0.5, save_every=3)
    whole = distil([lesson()], base("bert"), own)
    steps = tuning._Run._step

    def stop(run: tuning._Run, batch: object) -> None:
        if run.done == 7:
            raise KeyboardInterrupt
        steps(run, batch)

    monkeypatch.setattr(tuning._Run, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        distil([lesson()], base("bert"), own, work=tmp_path)
    monkeypatch.undo()
    with pytest.raises(UnsupportedValueError, match="not finished"):
        distil([lesson()], base("bert"), own, work=tmp_path)
    again = distil([lesson()], base("bert"), own, work=tmp_path, resume=True)
    assert again.finished
    assert whole.total == 8
    assert same(again, whole)
    assert again.losses == pytest.approx(whole.losses)
    # What is finished is not done anew.
    monkeypatch.setattr(tuning._Run, "_step", stop)
    assert same(distil([lesson()], base("bert"), own, work=tmp_path, resume=True), whole)


def test_a_run_starts_from_the_adapters_of_another(base: Callable[[str], Path], tmp_path: Path) -> None:
    first = distil([lesson()], base("bert"), config(epochs=8))
    assert first.adapters is not None
    still = config(epochs=1, rate=1e-9, decay=0.0)
    kept = distil([lesson()], base("bert"), still, onto=first.adapters)
    anew = distil([lesson()], base("bert"), still)
    assert kept.adapters is not None
    for name, own in kept.adapters.factors.items():
        np.testing.assert_allclose(own.a, first.adapters.factors[name].a, atol=1e-6)
        np.testing.assert_allclose(own.b, first.adapters.factors[name].b, atol=1e-6)
    # Its heads are fitted to what those adapters make of texts.
    assert kept.losses[0] < 0.8 * anew.losses[0]
    on, part = config(epochs=1), None
    for _ in range(8):
        part = distil([lesson()], base("bert"), on, onto=first.adapters, work=tmp_path, resume=True, minutes=0)
    assert part is not None
    assert same(part, distil([lesson()], base("bert"), on, onto=first.adapters))
    # As a bundle has them.
    halves = distil([lesson()], base("bert"), still, onto=first.adapters.half())
    assert halves.losses[0] == pytest.approx(kept.losses[0], abs=1e-2)
    with pytest.raises(UnsupportedValueError, match="another run"):
        distil([lesson()], base("bert"), on, work=tmp_path, resume=True)


def test_adapters_that_a_run_cannot_start_from_are_refused(base: Callable[[str], Path]) -> None:
    found = distil([lesson()], base("bert"), config(epochs=1)).adapters
    assert found is not None
    for own, words in (
        (config(rank=2), "is not adapted alike"),
        (config(frozen=1), "is not adapted alike"),
        (config(full=True, rate=1e-3), "tune adapters, not all weights"),
        (config(alpha=4.0), "have alpha 8"),
    ):
        with pytest.raises(BundleError, match=words):
            distil([lesson()], base("bert"), own, onto=found)
    other = replace(found, weights=dict.fromkeys(found.weights, "0" * 64))
    with pytest.raises(BundleError, match="belong to other weights"):
        distil([lesson()], base("bert"), config(), onto=other)


def test_the_end_of_the_time_is_no_loss(base: Callable[[str], Path], tmp_path: Path) -> None:
    own = config()
    parts, steps = [], []
    for _ in range(40):
        part = distil([lesson()], base("bert"), own, work=tmp_path, resume=True, minutes=0)
        parts.append(part.finished)
        steps.append(part.steps)
        if part.finished:
            break
    assert steps == list(range(1, part.total + 1))
    assert parts == [False] * (part.total - 1) + [True]
    assert same(part, distil([lesson()], base("bert"), own))
    assert part.seconds > 0


def test_with_nothing_to_resume_it_begins(base: Callable[[str], Path], tmp_path: Path) -> None:
    assert distil([lesson()], base("bert"), config(epochs=1), work=tmp_path / "new", resume=True).finished


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"x" + c[1:]])
def test_a_half_written_checkpoint_is_told(
    base: Callable[[str], Path], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    distil([lesson()], base("bert"), config(), work=tmp_path, minutes=0)
    path = tmp_path / CHECKPOINT
    assert [one.name for one in tmp_path.iterdir()] == [CHECKPOINT]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UnsupportedValueError, match=r"not a checkpoint that can be read .* delete it"):
        distil([lesson()], base("bert"), config(), work=tmp_path, resume=True)


def test_a_checkpoint_of_another_run_is_refused(base: Callable[[str], Path], tmp_path: Path) -> None:
    distil([lesson()], base("bert"), config(), work=tmp_path, minutes=0)
    other = [*either()[:-1], example("please", 0, "good 1")]
    for lessons, folder, own, held in (
        ([lesson(other)], base("bert"), config(), None),
        ([lesson()], base("bert"), config(rank=2), None),
        ([lesson()], base("bert"), config(seed=9), None),
        ([lesson()], base("bert"), config(), ["good 1", "bad 1"]),
        ([lesson()], base("modernbert"), config(), None),
    ):
        with pytest.raises(UnsupportedValueError, match="another run"):
            distil(lessons, folder, own, held=held, work=tmp_path, resume=True)
    # How often it is saved is no part of what it does.
    assert distil([lesson()], base("bert"), config(save_every=1), work=tmp_path, resume=True, minutes=0).steps == 2


def test_progress_is_told(base: Callable[[str], Path]) -> None:
    told: list[tuple[str, float]] = []
    distil([lesson()], base("bert"), config(), progress=lambda what, share: told.append((what, share)))
    assert list(dict.fromkeys(what for what, _ in told)) == ["cutting texts", "starting heads", "tuning"]
    shares = [share for what, share in told if what == "tuning"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


# What is held out, and what stays


def test_families_that_are_held_out_change_nothing(base: Callable[[str], Path]) -> None:
    held = hold_out([lesson()])
    examples = [example("rules please", 1 - one.label, one.family) if one.family in held else one for one in either()]
    own = config(epochs=1)
    assert same(
        distil([lesson()], base("bert"), own, held=held), distil([lesson(examples)], base("bert"), own, held=held)
    )
    assert distil([lesson()], base("bert"), own, held=()).held == ()
    with pytest.raises(UnsupportedValueError, match="no text is of the family 'nobody'"):
        distil([lesson()], base("bert"), own, held=["nobody"])


def test_lower_layers_stay_where_they_are_frozen(base: Callable[[str], Path]) -> None:
    found = distil([lesson()], base("bert"), config(frozen=1, epochs=1))
    assert found.adapters is not None
    assert {name.partition(".")[0] for name in found.adapters.factors} == {"2"}
    Extractor.load(base("bert"), blocks=[Block(2, "mean")], window=config().window.spec, adapters=found.adapters)


@pytest.mark.parametrize(("frozen", "moved"), [(None, {"embeddings", "0", "1"}), (0, {"0", "1"}), (1, {"1"})])
def test_all_weights_are_tuned_but_those_that_stay(
    base: Callable[[str], Path], frozen: int | None, moved: set[str]
) -> None:
    found = distil([lesson()], base("bert"), config(full=True, frozen=frozen, epochs=1, rate=0.001))
    assert found.adapters is None
    assert found.tuned is not None
    before = load_pruned(base("bert"), 2).module.state_dict()
    assert set(before) == set(found.tuned)
    changed = {name for name, own in found.tuned.items() if not torch.equal(own, before[name])}
    assert {name.split(".")[2] if name.startswith("encoder") else "embeddings" for name in changed} == moved


@pytest.mark.parametrize("name", [*NAMES, "deberta-v2", "gemma"])
def test_a_tuned_model_is_a_base_of_its_own(base: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    own = config(full=True, epochs=1, rate=0.001)
    found = distil([lesson()], base(name), own)
    assert found.tuned is not None
    size = write_base(base(name), 2, found.tuned, tmp_path)
    assert size == (tmp_path / "model.safetensors").stat().st_size < (base(name) / "model.safetensors").stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    again = load_pruned(tmp_path, 2)
    for key, tensor in again.module.state_dict().items():
        torch.testing.assert_close(tensor, found.tuned[key], rtol=0, atol=0)
    with pytest.raises(BundleError):
        load_pruned(tmp_path, 3)


def test_a_tuned_plain_encoder_is_a_base_that_plain_torch_reads(minilm: Path, tmp_path: Path) -> None:
    from lec_guard.detect.plain import PlainEncoder

    cut = load_pruned(minilm, 1)
    assert isinstance(cut.module, PlainEncoder)
    tensors = {name: own + 0.01 for name, own in cut.module.state_dict().items()}
    write_base(minilm, 1, tensors, tmp_path)
    again = load_pruned(tmp_path, 1)
    assert isinstance(again.module, PlainEncoder)
    for name, own in again.module.state_dict().items():
        torch.testing.assert_close(own, tensors[name], rtol=0, atol=0)


def test_part_of_the_way_and_the_mean_of_runs_are_between(base: Callable[[str], Path]) -> None:
    folder, own = base("modernbert"), config(epochs=8)
    runs = [distil([lesson()], folder, config(epochs=8, seed=seed)) for seed in (0, 1)]
    adapters = [run.adapters for run in runs if run.adapters is not None]
    held = runs[0].held
    assert runs[1].held == held
    assert auc(folder, own, averaged(adapters), held) > 0.85
    assert auc(folder, own, scaled(adapters[0], 0.01), held) < auc(folder, own, adapters[0].half(), held)


# What is refused


@pytest.mark.parametrize(
    ("own", "word"),
    [
        ({"blocks": (DistilBlock(layer=0, pooling="mean"),)}, "below layer 1"),
        ({"blocks": (DistilBlock(layer=1, pooling="mean"),) * 2}, "stands twice"),
        ({"blocks": ()}, "at least 1"),
        ({"frozen": 2}, "nothing is tuned"),
        ({"rank": 0}, "rank"),
        ({"dropout": 1.0}, "dropout"),
        ({"rate": float("nan")}, "rate"),
        ({"learning_rate": 1}, "learning_rate"),
    ],
)
def test_settings_that_mean_nothing_are_refused(own: dict[str, object], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        config(**own)


def test_lessons_that_teach_nothing_are_refused(base: Callable[[str], Path]) -> None:
    good = [one for one in either() if not one.label]
    one_family = [example(one.text, one.label, "one") for one in either()]
    for examples, word in (
        (good, "no harmful text"),
        (one_family, "are of one family"),
        ([*either(), example("please", None, "f", soft=1.5)], "no probability"),
    ):
        with pytest.raises(UnsupportedValueError, match=word):
            distil([lesson(examples)], base("bert"), config())
    with pytest.raises(
        UnsupportedValueError, match="no harmful text to learn from: give some of families that are not"
    ):
        distil([lesson()], base("bert"), config(), held={one.family for one in either() if one.label})


def test_a_loss_that_is_no_number_is_told(base: Callable[[str], Path]) -> None:
    with pytest.raises(UnsupportedValueError, match=r"not finite at step \d+ of \d+: give a lower rate"):
        distil([lesson()], base("bert"), config(rate=1e30, warmup=0.0))


def test_a_base_without_tokenizer_and_windows_that_are_too_long_are_refused(
    base: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(base("bert"), tmp_path / "base"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"no tokenizer\.json"):
        distil([lesson()], folder, config())
    with pytest.raises(BundleError, match="windows of 65 tokens, but the model reads 64"):
        distil([lesson()], base("bert"), config(window={"size": 65, "stride": 7, "least": 4}))


def test_without_peft_it_says_what_to_install(base: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BundleError, match=r"needs peft; run: pip install 'lec-guard\[train\]'"):
        distil([lesson()], base("bert"), config())
    assert distil([lesson()], base("bert"), config(full=True, epochs=1, rate=0.001)).finished
