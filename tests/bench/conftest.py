"""A tiny bundle to measure, and machines that lack what some parts need."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.utils import logging as hf_logging

from lec_guard.bench.detectors import Detectors
from lec_guard.detect.bundle import OnnxBase, read_bundle, write_bundle
from tests.detect.models import save_bundle, save_family


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_on_one_thread() -> Iterator[None]:
    threads, verbosity = torch.get_num_threads(), hf_logging.get_verbosity()
    torch.set_num_threads(1)
    hf_logging.set_verbosity_error()
    yield
    torch.set_num_threads(threads)
    hf_logging.set_verbosity(verbosity)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle over a tiny random model; nobody may change the folder."""
    return save_bundle(tmp_path_factory.mktemp("bundle"), save_family("bert", tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="session")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle as an export has it, with a model that only counts tokens: a real export takes its time."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder, bundle = tmp_path_factory.mktemp("exported"), read_bundle(tiny)
    width = len(bundle.learned.heads.weight)
    inputs = {"ids": ["batch", "tokens"], "mask": ["batch", "tokens"]}
    constants = {"weights": np.full((1, width), 0.01, dtype=np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["ids", "mask"], ["kept"]),
            helper.make_node("Cast", ["kept"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["numbers"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("MatMul", ["mean", "weights"], ["features"]),
        ],
        "counter",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(model)
    shutil.copyfile(bundle.base_folder() / "tokenizer.json", folder / "tokenizer.json")
    files = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("model.onnx", "tokenizer.json")
    }
    base = OnnxBase(kind="onnx", dtype="fp32", width=width, pad_id=0)
    write_bundle(folder, bundle.spec.model_copy(update={"base": base, "files": files}), bundle.learned)
    return folder


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What auto remembers is not the user's business."""
    monkeypatch.setenv("LEC_GUARD_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the extra `onnx`."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def detectors(tiny: Path, no_onnx: None) -> Detectors:
    """The detectors of the tiny bundle, on torch alone."""
    return Detectors(tiny)
