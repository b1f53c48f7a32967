"""The cut model in ONNX Runtime, in float32 or int8: no torch at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from lec_guard.detect.extractor import Features, Tokens
from lec_guard.errors import BundleError

OnnxDtype = Literal["fp32", "int8"]


class OnnxBackend:
    """Runs an exported model, which pools too. Safe to share between threads.

    The int8 model scales its activations by what it sees in one call. It therefore reads one window a call and
    without padding: a score can't depend on who else is in the batch.

    Args:
        file: The exported model.
        dtype: What its matrix products compute in.
        width: Length of a feature vector.
        pad_id: Token id to pad with.

    Raises:
        BundleError: If ONNX Runtime is not installed or can't read the file.
    """

    def __init__(self, file: Path, *, dtype: OnnxDtype, width: int, pad_id: int) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise BundleError("this detector runs on ONNX Runtime; run: pip install 'lec-guard[onnx]'") from None
        self.name = f"onnx-{dtype}"
        self.width = width
        self.pad_id = pad_id
        self._one_by_one = dtype == "int8"
        try:
            self._session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
        except Exception as error:  # what ONNX Runtime raises has no base of its own
            raise BundleError(f"{file}: ONNX Runtime can't read this model: {error}") from error

    def features(self, ids: Tokens, mask: Tokens) -> Features:
        """Features of one padded batch; see `lec_guard.detect.extractor.Backend`."""
        if not self._one_by_one:
            return self._run(ids, mask)
        own = (row[kept == 1][None] for row, kept in zip(ids, mask, strict=True))
        return np.concatenate([self._run(row, np.ones_like(row)) for row in own])

    def _run(self, ids: Tokens, mask: Tokens) -> Features:
        return np.asarray(self._session.run(None, {"ids": ids, "mask": mask})[0], dtype=np.float32)
