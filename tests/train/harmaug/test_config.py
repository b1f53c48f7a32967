"""The file of a run that makes examples."""

from __future__ import annotations

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.harmaug import AugmentConfig

WHOLE = """
data: [rows.csv]
columns: {text: prompt}
generator: {model: "hf:models/writer", temperature: 0.7, price_in: 1}
responder: {model: "openai:x", prefill: never}
teacher: {model: "bundle:ours", head: tone, asks: 5}
count: 20
category: topic
requests_per_minute: 60
"""


def test_paths_of_data_and_of_models_start_at_the_files_folder(tmp_path):
    (tmp_path / "run.yaml").write_text(WHOLE)
    found = AugmentConfig.read(tmp_path / "run.yaml", {"count": 30, "generator": {"temperature": 0.2}})
    assert found.data == (tmp_path / "rows.csv",)
    assert found.generator.model == f"hf:{tmp_path}/models/writer"
    assert (found.generator.temperature, found.generator.price_in, found.count) == (0.2, 1.0, 30)
    assert found.teacher.model == f"bundle:{tmp_path}/ours"
    assert (found.generator.name, found.teacher.name, found.responding.name) == ("hf:writer", "bundle:ours", "openai:x")
    given = {"generator": {"model": "hf:here"}, "teacher": {"model": "bundle:embedded"}}
    found = AugmentConfig.read(tmp_path / "run.yaml", given)
    assert (found.generator.model, found.teacher.model) == ("hf:here", "bundle:embedded")


def test_the_generator_responds_where_nothing_else_does():
    found = AugmentConfig.read(None, {"data": "a.csv", "generator": {"model": "x"}, "teacher": {"model": "y"}})
    assert found.responding == found.generator


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generator": {"modle": "x"}}, "did you mean 'model'"),
        ({"generatr": {"model": "x"}}, "did you mean 'generator'"),
        ({"teacher": {"model": "x", "benjgn": "y"}}, "did you mean 'benign'"),
        ({"count": 0}, "count"),
        ({"concurrency": 65}, "concurrency"),
        ({"near": 1.5}, "near"),
        ({"generator": {"model": "x", "prefill": "perhaps"}}, "generator.prefill"),
    ],
)
def test_mistakes_are_named(changes, said):
    own = {"data": "a.csv", "generator": {"model": "x"}, "teacher": {"model": "y"}}
    with pytest.raises(UnsupportedValueError) as caught:
        AugmentConfig.read(None, own | changes)
    assert said in str(caught.value)
