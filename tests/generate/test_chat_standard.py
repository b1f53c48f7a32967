"""LangChain's own tests of chat models, on the guarded one: what is allowed is as if there were no guard."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import mkdtemp

import pytest

from lec_guard import GuardRunnable
from lec_guard.generate import GuardedChatModel, InsideDetector
from tests.generate import test_local_standard as local
from tests.generate.inside import Inside
from tests.generate.test_guarded import SHORT
from tests.generate.test_local import speaker

POLICY = """
message: No.
rules:
  - {name: attack, stages: [input, tool_output], head: attack, threshold: 1.0, action: block}
  - {name: harm, stages: [output, tool_input], head: harm, threshold: 1.0, action: block}
"""


@functools.cache
def params(called):
    folder = Path(mkdtemp())
    model, tokenizer = speaker(local.SAID, called)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    one = Inside(folder, model, tokenizer)
    user = one.bundle("user", blocks=((1, "mean"),))
    answer = one.bundle("answer", role="assistant", head="harm", blocks=((1, "mean"),), window=SHORT)
    detector = InsideDetector.load(model, tokenizer, user, answer)
    (folder / "policy.yaml").write_text(POLICY)
    guard = GuardRunnable.from_policies(folder / "policy.yaml", detector=detector)
    return {"tokenizer": tokenizer, "guard": guard, "detector": detector}


class _Guarded:
    @property
    def chat_model_class(self):
        return GuardedChatModel

    @property
    def chat_model_params(self):
        return params(None)


class TestUnit(_Guarded, local.TestUnit):
    pass


class TestIntegration(_Guarded, local.TestIntegration):
    @pytest.fixture
    def model(self, request):
        return GuardedChatModel(**params(local.called_in(request)), **(getattr(request, "param", None) or {}))
