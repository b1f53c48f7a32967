"""Other models beside our detector: the same lengths, the same rounds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lec_guard.bench.detectors import Detectors, backend_of
from lec_guard.bench.latency import score_one
from lec_guard.bench.other_models import OtherModel
from lec_guard.bench.plan import Plan
from lec_guard.bench.prompts import Prompts
from lec_guard.bench.report import Comparison, ForwardPass, Others, OurPass
from lec_guard.bench.rounds import Job, ratio, seconds, timing
from lec_guard.detect.layer import LayerDetector

if TYPE_CHECKING:
    import torch

_Kind = Literal["as shipped", "auto", "same dtype"]


@dataclass(frozen=True, slots=True)
class _Form:
    """A form of another model.

    Attributes:
        layers: Layers that are left.
        dtype: What it computes in.
    """

    layers: int
    dtype: str


@dataclass(frozen=True, slots=True)
class _Ours:
    """Our detector on the backends that others are compared with.

    Attributes:
        shipped: The backend as shipped.
        auto: The backend that auto chose, if it could.
        detectors: Backend -> detector.
    """

    shipped: str
    auto: str | None
    detectors: Mapping[str, LayerDetector]

    def beside(self, dtype: str) -> Iterator[tuple[_Kind, str]]:
        """What a model of some dtype is compared with."""
        if dtype == "fp32":
            yield "as shipped", self.shipped
            if self.auto is not None:
                yield "auto", self.auto
        if f"torch-{dtype}" in self.detectors:
            yield "same dtype", f"torch-{dtype}"


def measure_others(detectors: Detectors, plan: Plan) -> Others:
    """Time each model whole and cut to half its layers, in float32 and bfloat16, by turns with our detector.

    Args:
        detectors: The detectors: as shipped, as auto chooses, and on torch in both dtypes.
        plan: Models, lengths and rounds.

    Returns:
        All times, and the ratios of the rounds.
    """
    prompts = Prompts.of(detectors.bundle)
    ours = _ours(detectors)
    passes: list[ForwardPass] = []
    our_passes: list[OurPass] = []
    comparisons: list[Comparison] = []
    for other in plan.others:
        rounds = plan.rounds if other.most_rounds is None else min(plan.rounds, other.most_rounds)
        forms = _forms(other)
        for tokens in plan.other_lengths:
            jobs: dict[_Form | str, Job] = {
                form: _forward(model, other.vocabulary, tokens) for form, model in forms.items()
            }
            for backend, detector in ours.detectors.items():
                jobs[backend] = score_one(detector, prompts, tokens)
            found = seconds(jobs, rounds)
            for form in forms:
                sizes = {"model": other.name, "layers": form.layers, "of_layers": other.layers, "dtype": form.dtype}
                passes.append(ForwardPass.model_validate(sizes | {"tokens": tokens, "time": timing(found[form])}))
                comparisons += [
                    Comparison.model_validate(
                        sizes | {"ours": mine, "kind": kind, "tokens": tokens, "ratio": ratio(found[form], found[mine])}
                    )
                    for kind, mine in ours.beside(form.dtype)
                ]
            our_passes += [
                OurPass(beside=other.name, backend=backend, tokens=tokens, time=timing(found[backend]))
                for backend in ours.detectors
            ]
    return Others(passes=tuple(passes), ours=tuple(our_passes), comparisons=tuple(comparisons))


def _ours(detectors: Detectors) -> _Ours:
    shipped, auto = backend_of(detectors.shipped), detectors.auto
    chosen = None if auto is None else backend_of(auto)
    found = {shipped: detectors.shipped}
    if auto is not None and chosen is not None:
        found.setdefault(chosen, auto)
    for name, detector in (("torch-fp32", detectors.on("torch-fp32")), ("torch-bf16", detectors.on("torch-bf16"))):
        if detector is not None:
            found.setdefault(name, detector)
    return _Ours(shipped, chosen, found)


def _forms(other: OtherModel) -> dict[_Form, torch.nn.Module]:
    """A model whole and cut, in both dtypes; all of them are in memory together."""
    import torch

    forms = {}
    for layers in (other.layers, other.layers // 2):
        model = other.build(layers)
        forms[_Form(layers, "fp32")] = model
        forms[_Form(layers, "bf16")] = copy.deepcopy(model).to(torch.bfloat16)
    return forms


def _forward(model: torch.nn.Module, vocabulary: int, tokens: int) -> Job:
    import torch

    def forward(ids: torch.Tensor) -> None:
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))

    def job() -> Callable[[], object]:
        ids = torch.randint(1, vocabulary, (1, tokens))
        return lambda: forward(ids)

    return job
