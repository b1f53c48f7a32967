"""Planted instructions, and the twins that must be told from them by their meaning alone."""

from __future__ import annotations

import base64
import json
import random
import re

import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.embedded.plant import FAMILIES, KEPT, MARK, MOST, bank, family, plants
from benchmarks.embedded.templates import expand

COUNT = 1_500


@pytest.fixture(scope="module")
def planted():
    return list(plants(3, COUNT))


def bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


def auc(attacks: list[float], twins: list[float]) -> float:
    return roc_auc_score([1] * len(attacks) + [0] * len(twins), attacks + twins)


def test_the_span_holds_the_payload(planted):
    for one in planted:
        span = one.attacked[one.start : one.stop]
        if one.wrapper == "base64":
            assert base64.b64encode(one.payload.encode()).decode() in span
        else:
            assert letters(one.payload) in letters(span)
        assert span == span.strip()


def test_without_their_spans_all_three_are_the_clean_document(planted):
    for one in planted:
        start, stop = one.own
        assert bare(one.attacked[: one.start] + one.attacked[one.stop :]) == bare(one.clean)
        assert bare(one.imperative[:start] + one.imperative[stop:]) == bare(one.clean)
        assert one.attacked[: one.start].rstrip() == one.imperative[:start].rstrip()
        assert MARK not in one.attacked + one.imperative + one.clean


def test_a_seed_gives_the_same_ones_and_more_of_them_change_none(planted):
    assert list(plants(3, 40)) == planted[:40]
    assert list(plants(4, 40)) != planted[:40]


@pytest.mark.parametrize(
    ("what", "measure"),
    [
        ("length", len),
        ("capitals", lambda text: sum(c.isupper() for c in text) / len(text)),
        ("exclamation marks", lambda text: text.count("!")),
        ("tags", lambda text: text.count("<")),
        ("lines", lambda text: text.count("\n")),
        ("digits", lambda text: sum(c.isdigit() for c in text) / len(text)),
    ],
)
def test_form_alone_does_not_tell_an_attack_from_its_twin(planted, what, measure):
    documents = auc([measure(one.attacked) for one in planted], [measure(one.imperative) for one in planted])
    spans = auc(
        [measure(one.attacked[one.start : one.stop]) for one in planted],
        [measure(one.imperative[slice(*one.own)]) for one in planted],
    )
    assert 0.4 < documents < 0.6, what
    assert 0.4 < spans < 0.6, what


def test_json_stays_json():
    for one in plants(5, 150, documents=["json"]):
        for text in (one.clean, one.attacked, one.imperative):
            json.loads(text)


def test_places_and_lengths_vary(planted):
    where = [one.start / max(1, len(one.attacked) - (one.stop - one.start)) for one in planted]
    for low, high in ((0, 0.1), (0.3, 0.7), (0.9, 1.1)):
        assert sum(low <= at <= high for at in where) > COUNT / 20
    lengths = sorted(len(one.clean) for one in planted)
    assert lengths[COUNT // 10] < 100
    assert lengths[-COUNT // 20] > 700
    assert max(one.clean.count("\n") for one in planted) < 4 * MOST


def test_kinds_can_be_left_out():
    chosen = list(plants(1, 60, documents=["data", "mail"], payloads=["poison"], wrappers=["naive", "urgent"]))
    assert {one.document for one in chosen} == {"table", "json", "calendar", "mail"}
    assert {one.kind for one in chosen} == {"poison"}
    assert {one.wrapper for one in chosen} == {"naive", "urgent"}
    assert all(one.document in FAMILIES[one.family] for one in chosen)


def test_every_template_of_the_bank_can_be_filled():
    whole, rng = bank(), random.Random(0)
    for document in whole.documents:
        assert document.kind in FAMILIES[family(document.kind)]
        assert 2 <= len(document.imperative) <= 4
        for text in (document.task, document.head, document.tail, *document.parts, *document.imperative):
            assert "{payload" not in expand(text, whole.slots, rng)
        assert document.line.count("{payload}") == bool(document.line)
        expand(document.line, whole.slots, rng, keep=KEPT)
    for payload in whole.payloads:
        expand(payload.text, whole.slots, rng)
    for wrapper in whole.wrappers:
        assert len(re.findall(r"\{payload(?:_b64)?\}", wrapper.text)) == 1
        assert {*wrapper.fits} <= {kind for kinds in FAMILIES.values() for kind in kinds}


def test_no_template_stands_twice():
    whole = bank()
    for texts in (
        [(document.task, document.parts) for document in whole.documents],
        [payload.text.lower() for payload in whole.payloads],
        [(wrapper.text, wrapper.side) for wrapper in whole.wrappers],
    ):
        assert len(texts) == len(set(texts))
