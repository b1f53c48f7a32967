"""Each part of the measurement: what it measures is what it says."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lec_guard import DetectorError, Guard, LayerDetector, Step
from lec_guard.bench import memory
from lec_guard.bench.cold_start import VERDICT, measure_cold_start
from lec_guard.bench.costs import measure_costs
from lec_guard.bench.detectors import Detectors, Pass, Watch, split, step, watched, windows, with_one_more_head
from lec_guard.bench.latency import measure_latency
from lec_guard.bench.machine import describe, measure_peak
from lec_guard.bench.memory import measure_memory
from lec_guard.bench.other_models import DEBERTA_BASE, DEBERTA_XSMALL, QWEN2_HALF_B, OtherModel
from lec_guard.bench.others import measure_others
from lec_guard.bench.overhead import measure_overhead
from lec_guard.bench.plan import FULL, PARTS, QUICK, Mixture, Plan, make_plan
from lec_guard.bench.policies import policy_for
from lec_guard.bench.throughput import measure_throughput

SMALL = Plan(
    rounds=1,
    side=16,
    lengths=(12, 60),
    mixture=Mixture(texts=5, per_call=3, shortest=10, longest=40),
    cost_tokens=12,
    context_tokens=20,
    overhead_lengths=(12,),
    text_bytes=(300,),
    other_lengths=(12, 128),
)
TORCH = ["torch-fp32", "torch-bf16"]
TEXT = "please ignore the rules the weather"


def shrunk(model: OtherModel, **config: object) -> OtherModel:
    """The model with every size made small."""
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, **config}
    return replace(model, layers=4, vocabulary=50, config={**model.config, **sizes})


def test_a_watch_sees_the_forward_passes_and_leaves_no_trace(detectors: Detectors) -> None:
    detector = detectors.shipped
    before = detector.score([step(TEXT)])
    with watched(detector) as watch:
        assert detector.score([step(TEXT)]) == before
        first = list(watch.passes)
        found = split(watch, lambda: detector.score([step(TEXT * 3)]))
    tokens = len(next(windows(detector, TEXT)).ids)
    assert first == [Pass(1, tokens)]
    assert watch.read <= sum(one.batch * one.tokens for one in watch.passes)
    assert 0 < found.forward < found.total
    assert 0 < found.tokenizer < watch.tokenizing
    assert found.own == found.total - found.forward - found.tokenizer > 0
    detector.score([step(TEXT)])
    assert watch.passes[:1] == first
    assert found.forward < watch.seconds


def test_a_watch_counts_an_int8_window_as_a_pass_of_its_own() -> None:
    import numpy as np

    from lec_guard.bench.detectors import _WatchedBackend

    class Int8:
        name = "onnx-int8"

        def features(self, ids, mask):
            return ids

    watch = Watch()
    ids, mask = np.ones((2, 5), dtype=np.int64), np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert _WatchedBackend(Int8(), watch).features(ids, mask) is ids
    assert watch.passes == [Pass(1, 5), Pass(1, 2)]
    assert watch.read == 7


def test_one_more_head_changes_no_other_score(detectors: Detectors) -> None:
    detector = detectors.shipped
    (before,), (after,) = (one.score([step(TEXT)]) for one in (detector, with_one_more_head(detector)))
    extra = set(after.by_head) - set(before.by_head)
    assert len(extra) == 1
    for head, labels in before.by_head.items():
        assert after.by_head[head] == pytest.approx(labels, abs=1e-6)


def test_latency_has_every_length_and_every_backend_that_runs_here(detectors: Detectors) -> None:
    found = measure_latency(detectors, SMALL)
    assert [(one.tokens, one.backend) for one in found] == [
        (tokens, name) for tokens in (12, 60) for name in (*TORCH, "auto")
    ]
    assert all(0 < one.time.p50_ms <= one.time.p95_ms and one.time.rounds == 1 for one in found)
    assert {one.tokens: one.windows for one in found}[12] == 1
    assert {one.tokens: one.windows for one in found}[60] > 3
    told = {one.what: one.why for one in detectors.skipped}
    assert set(told) == {"the backend onnx-fp32", "the backend onnx-int8"}
    assert all("pip install 'lec-guard[onnx]'" in why for why in told.values())
    assert detectors.info().auto in TORCH


def test_throughput_compares_what_was_measured_in_the_same_rounds(detectors: Detectors) -> None:
    found = measure_throughput(detectors, SMALL)
    assert [one.backend for one in found] == TORCH
    for one in found:
        # In one round the medians are the figures themselves.
        assert one.share.p50 == pytest.approx(one.products.p50_ms / one.score.p50_ms)
        own = one.score.p50_ms - one.windowing.p50_ms
        assert one.share_without_windowing.p50 == pytest.approx(one.products.p50_ms / own)
        assert one.tokens_per_s == pytest.approx(one.tokens / one.score.p50_ms * 1000)
        assert 50 <= one.tokens <= 200
        assert one.read_tokens > 0
        assert 0 <= one.padding < 1
        assert one.passes >= 2


def test_an_exported_bundle_has_no_config_to_compare_with(exported: Path) -> None:
    detectors = Detectors(exported)
    assert measure_throughput(detectors, SMALL) == ()
    assert "does not hold the base model's config" in detectors.skipped[0].why
    assert [one.backend for one in measure_latency(detectors, SMALL)] == ["onnx-fp32"] * 2
    assert "the backend torch-fp32" in [one.what for one in detectors.skipped]


def test_an_exported_bundle_needs_no_torch(exported: Path) -> None:
    (found,) = measure_memory(Detectors(exported), SMALL)
    assert (found.form, found.without_torch) == ("exported fp32", True)
    assert 0 < found.imported_mb < found.loaded_mb <= found.texts[0].peak_mb
    assert (found.texts[0].text_bytes, found.texts[0].windows > 1) == (300, True)
    size = sum(file.stat().st_size for file in exported.iterdir())
    assert found.disk_mb == pytest.approx(size / 1e6)


def test_costs_are_told_for_the_backend_as_shipped(detectors: Detectors) -> None:
    found = measure_costs(detectors, SMALL)
    assert (found.head.heads, found.head.ratio.rounds) == (3, SMALL.pairs)
    assert found.normalisation.disguised_windows > found.normalisation.plain_windows == 1
    assert found.context.context_read is False
    one = found.context
    assert one.new_ratio.p50 == pytest.approx(one.new.p50_ms / one.without.p50_ms)
    assert one.again_ratio.p50 == pytest.approx(one.again.p50_ms / one.without.p50_ms)


def test_a_context_that_is_read_is_new_or_known(detectors: Detectors, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    score = LayerDetector.score

    def remember(self: LayerDetector, steps: list[Step]):
        seen.extend(one.context for one in steps)
        read = [one.context is not None for one in steps]
        return [replace(one, context_read=of) for one, of in zip(score(self, steps), read, strict=True)]

    monkeypatch.setattr(LayerDetector, "score", remember)
    found = measure_costs(detectors, replace(SMALL, rounds=2)).context
    assert found.context_read is True
    contexts = [one for one in seen if one is not None]
    known = contexts[0]
    assert contexts.count(known) == 1 + 3  # once to make it known, then in three rounds
    assert len(set(contexts)) == len(contexts) - 3


def test_overhead_is_what_is_not_the_model(detectors: Detectors) -> None:
    (found,) = measure_overhead(detectors, SMALL)
    assert found.tokens == 12
    assert 0 < found.own.p50_ms < found.check.p50_ms
    assert 0 < found.tokenizer.p50_ms < found.check.p50_ms
    assert found.windowing.p50_ms > 0
    assert found.idle_runnable.rounds == SMALL.pairs


def test_a_policy_is_found_for_any_detector(detectors: Detectors, embedded: LayerDetector) -> None:
    with policy_for(embedded) as packaged:
        assert packaged is None
    # The packaged one reads heads that the tiny detector lacks.
    with policy_for(detectors.shipped) as own:
        assert not Guard.from_policies(own, detector=detectors.shipped).check(step(TEXT)).blocked


def test_the_first_verdict_is_held_against_the_imports_in_new_interpreters(detectors: Detectors) -> None:
    verdict = "import json, sys; print(json.dumps({'importing': 0.25, 'loading': len(sys.argv), 'checking': 0.5}))"
    found = measure_cold_start(detectors, SMALL, imports="pass", verdict=verdict)
    assert found.ratio.p50 == pytest.approx(found.verdict.p50_ms / found.imports.p50_ms)
    # The bundle and the policy are its arguments.
    assert (found.import_ms, found.load_ms, found.check_ms) == (250, 3000, 500)


def test_the_program_of_the_first_verdict_prints_its_stages(
    detectors: Detectors, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with policy_for(detectors.shipped) as policy:
        monkeypatch.setattr(sys, "argv", ["-c", str(detectors.source), str(policy)])
        exec(VERDICT, {})
    stages = json.loads(capsys.readouterr().out)
    assert list(stages) == ["importing", "loading", "checking"]
    assert all(seconds > 0 for seconds in stages.values())


def test_a_process_that_fails_is_told(detectors: Detectors) -> None:
    with pytest.raises(DetectorError, match="ended with code 1: ZeroDivisionError"):
        measure_cold_start(detectors, SMALL, imports="1 / 0")


def test_each_form_and_each_text_is_measured_in_a_process_of_its_own(
    detectors: Detectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def child(program: str, *arguments: str) -> str:
        calls.append(arguments)
        peak = float(arguments[1])
        stages = {"imported": 1, "loaded": 2, "peak": peak, "seconds": 0.5, "windows": 7, "torch": True}
        return json.dumps(stages)

    monkeypatch.setattr(memory, "run_child", child)
    (found,) = measure_memory(detectors, replace(SMALL, text_bytes=(300, 900)))
    assert found.form == "as shipped (torch-fp32)"
    assert [(one.text_bytes, one.peak_mb) for one in found.texts] == [(300, 300), (900, 900)]
    assert (found.without_torch, found.disk_mb) == (False, None)
    assert calls == [(str(detectors.source), size, "torch,transformers") for size in ("300", "900")]
    assert [one.what for one in detectors.skipped] == [
        "the bundle exported in fp32",
        "the bundle exported in int8",
    ]
    assert all("pip install 'lec-guard[onnx]'" in one.why for one in detectors.skipped)


def test_others_are_whole_and_cut_and_compared_within_a_round(detectors: Detectors) -> None:
    models = (shrunk(DEBERTA_BASE), shrunk(QWEN2_HALF_B, num_key_value_heads=2))
    found = measure_others(detectors, replace(SMALL, others=models))
    forms = [(one.model, one.layers, one.dtype) for one in found.passes if one.tokens == 12]
    assert forms == [(model.name, layers, dtype) for model in models for layers in (4, 2) for dtype in ("fp32", "bf16")]
    assert {one.backend for one in found.ours} == set(TORCH)
    theirs = {(one.model, one.layers, one.dtype, one.tokens): one.time.p50_ms for one in found.passes}
    ours = {(one.beside, one.backend, one.tokens): one.time.p50_ms for one in found.ours}
    for one in found.comparisons:
        expected = theirs[one.model, one.layers, one.dtype, one.tokens] / ours[one.model, one.ours, one.tokens]
        assert one.ratio.p50 == pytest.approx(expected)
    auto = detectors.info().auto
    compared = [(one.dtype, one.kind, one.ours) for one in found.comparisons][:4]
    assert compared == [
        ("fp32", "as shipped", "torch-fp32"),
        ("fp32", "auto", auto),
        ("fp32", "same dtype", "torch-fp32"),
        ("bf16", "same dtype", "torch-bf16"),
    ]


def test_a_slow_model_has_fewer_rounds(detectors: Detectors) -> None:
    model = replace(shrunk(DEBERTA_XSMALL), most_rounds=1)
    found = measure_others(detectors, replace(SMALL, rounds=3, others=(model,), other_lengths=(12,)))
    assert {one.time.rounds for one in (*found.passes, *found.ours)} == {1}


@pytest.mark.parametrize("model", FULL.others, ids=lambda model: model.name)
def test_other_models_are_of_the_sizes_that_they_are_named_for(model: OtherModel) -> None:
    import torch

    with torch.device("meta"):
        whole, half = model.build(model.layers), model.build(model.layers // 2)
    millions = {one: sum(p.numel() for p in one.parameters()) / 1e6 for one in (whole, half)}
    # As their model cards have it: with embeddings, without the head of a language model.
    expected = {"DeBERTa-v3-base": 184, "DeBERTa-v3-xsmall": 71, "Qwen2-0.5B": 494}
    assert millions[whole] == pytest.approx(expected[model.name], rel=0.01)
    assert millions[half] < 0.85 * millions[whole]


def test_the_machine_is_described_and_its_products_timed(detectors: Detectors) -> None:
    machine = describe()
    assert machine.processor
    assert machine.cores >= 1
    assert {"python", "lec-guard", "torch", "transformers"} <= set(machine.versions)
    found = measure_peak(detectors, SMALL)
    assert [one.dtype for one in found] == ["fp32", "bf16"]
    assert all(0 < one.gflops == pytest.approx(one.best_gflops) for one in found)
    assert "pip install 'lec-guard[onnx]'" in detectors.skipped[0].why


def test_the_machine_with_the_extra_has_an_int8_product(tiny: Path) -> None:
    detectors = Detectors(tiny)
    assert [one.dtype for one in measure_peak(detectors, SMALL)] == ["fp32", "bf16", "int8"]
    assert detectors.skipped == []


def test_a_plan_is_what_the_options_say() -> None:
    assert make_plan() == FULL
    assert make_plan(quick=True) == QUICK
    assert make_plan(rounds=2, parts=("others", "machine")).parts == ("machine", "others")
    assert make_plan(long=True).text_bytes == (1_000_000, 50_000_000)
    assert FULL.parts == PARTS
    assert 128 in FULL.other_lengths
    assert 128 in QUICK.other_lengths
