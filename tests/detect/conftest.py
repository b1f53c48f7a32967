"""Tiny models on disk, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.utils import logging as hf_logging

from lec_guard import LayerDetector
from tests.detect.models import FAMILIES, Family, save_bundle, save_family


@dataclass(frozen=True)
class Saved:
    """A tiny model on disk and the whole of it in memory."""

    name: str
    family: Family
    folder: Path
    whole: hf.PreTrainedModel

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Every hidden state of the whole model."""
        with torch.inference_mode():
            output = self.whole(input_ids=ids, attention_mask=mask, output_hidden_states=True, return_dict=True)
        return output.hidden_states

    def states_of(self, ids: list[int]) -> list[np.ndarray]:
        """Those of one input, `[tokens, width]` each."""
        tokens = torch.tensor([ids])
        return [state[0].numpy() for state in self.states(tokens, torch.ones_like(tokens))]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # Tiny tensors are slower on several threads, by far so on a machine that others use.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _quiet_transformers() -> Iterator[None]:
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    yield
    hf_logging.set_verbosity(verbosity)
    hf_logging.enable_progress_bar()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Name of a family -> its model; nobody may change the folder."""
    made: dict[str, Saved] = {}

    def get(name: str) -> Saved:
        if name not in made:
            folder = save_family(name, tmp_path_factory.mktemp(name))
            made[name] = Saved(name, FAMILIES[name], folder, hf.AutoModel.from_pretrained(folder).eval())
        return made[name]

    return get


@pytest.fixture(scope="session", params=list(FAMILIES))
def model(request: pytest.FixtureRequest, saved: Callable[[str], Saved]) -> Saved:
    """Each family in turn."""
    return saved(request.param)


@pytest.fixture(scope="session")
def bert(saved: Callable[[str], Saved]) -> Saved:
    """The model of tests that any architecture can serve."""
    return saved("bert")


@pytest.fixture(scope="session")
def bundle(bert: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle over it; nobody may change the folder."""
    return save_bundle(tmp_path_factory.mktemp("bundle"), bert.folder)


@pytest.fixture(scope="session")
def detector(bundle: Path) -> LayerDetector:
    """The detector of that bundle."""
    return LayerDetector.load(bundle)


@pytest.fixture(scope="session")
def pair_bundle(bert: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle some of whose heads read texts with their context; nobody may change the folder."""
    return save_bundle(tmp_path_factory.mktemp("pairs"), bert.folder, pairs=True)


@pytest.fixture(scope="session")
def pair_detector(pair_bundle: Path) -> LayerDetector:
    """The detector of that bundle."""
    return LayerDetector.load(pair_bundle)
