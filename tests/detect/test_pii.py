"""Personal data is found wherever it stands, in any text, in bounded time, and with nothing from the net."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import regex
import spacy
from presidio_analyzer import Pattern, PatternRecognizer
from presidio_analyzer.predefined_recognizers import IpRecognizer

import lec_guard.detect
from lec_guard import DetectorError, Guard, Scores, Span, Step
from lec_guard.detect import presidio
from lec_guard.detect.composite import CompositeDetector
from lec_guard.detect.pii import OVERLAP, PIECE, PiiDetector, merged
from lec_guard.detect.presidio import Finding
from lec_guard.testing import KeywordDetector
from tests.conftest import write_policies

MAIL = "ada@example.com"
CARD = "4111 1111 1111 1111"
PHONE = "+44 20 7946 0958"


@pytest.fixture(scope="module")
def pii() -> PiiDetector:
    return PiiDetector()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spaCy model that knows a few names by heart."""
    nlp = spacy.blank("en")
    nlp.meta |= {"name": "by_heart", "version": "1.0"}
    names = {"PERSON": "Ada Quill", "GPE": "Northport", "ORG": "Acme", "MONEY": "5 dollars"}
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": label, "pattern": name} for label, name in names.items()])
    folder = tmp_path_factory.mktemp("model") / "by_heart"
    nlp.to_disk(folder)
    return folder


def score(detector: PiiDetector, text: str) -> Scores:
    (scores,) = detector.score([Step(stage="input", text=text)])
    return scores


def found(detector: PiiDetector, text: str) -> list[tuple[str, str]]:
    return [(span.label, text[span.start : span.end]) for span in score(detector, text).spans]


# What is found


def test_findings_are_spans_and_the_highest_is_the_labels_score(pii):
    text = f"Write to {MAIL}, or 415-555-0132; better still, since I am out, my phone number is 212-555-0123."
    scores = score(pii, text)
    assert [(one.head, one.label, text[one.start : one.end]) for one in scores.spans] == [
        ("pii", "EMAIL_ADDRESS", MAIL),
        ("pii", "PHONE_NUMBER", "415-555-0132"),
        ("pii", "PHONE_NUMBER", "212-555-0123"),
    ]
    by_label = scores.by_head["pii"]
    assert by_label["EMAIL_ADDRESS"] == 1.0
    # The words before the second number speak for it.
    assert by_label["PHONE_NUMBER"] == scores.spans[2].score > scores.spans[1].score == 0.4
    assert by_label["CREDIT_CARD"] == 0.0
    assert (scores.windows, scores.context_read, scores.unread, scores.backend) == (1, False, None, "presidio")
    assert scores.detector_id == pii.detector_id


def test_labels_are_entity_types_and_all_are_scored(pii):
    assert pii.labels.keys() == {"pii"}
    assert {"CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "PHONE_NUMBER", "US_SSN"} <= {*pii.labels["pii"]}
    assert not presidio.NOT_PERSONAL & {*pii.labels["pii"]}
    assert tuple(score(pii, MAIL).by_head["pii"]) == pii.labels["pii"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (CARD, "CREDIT_CARD"),
        ("GB82 WEST 1234 5698 7654 32", "IBAN_CODE"),
        ("192.0.2.17", "IP_ADDRESS"),
        ("00:1a:2b:3c:4d:5e", "MAC_ADDRESS"),
        ("856-45-6789", "US_SSN"),
        (PHONE, "PHONE_NUMBER"),
        ("a/b@example.com", "EMAIL_ADDRESS"),
    ],
)
def test_a_text_that_is_nothing_else(pii, text, label):
    assert (label, text) in found(pii, text)


@pytest.mark.parametrize("text", ["4111 1111 1111 1112", "GB83 WEST 1234 5698 7654 32", "ada@example.notadomain"])
def test_what_a_check_refuses_is_nothing(pii, text):
    found_at_all = {label for label, _ in found(pii, text)}
    assert not found_at_all & {"CREDIT_CARD", "IBAN_CODE", "EMAIL_ADDRESS"}


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b"])
def test_a_text_without_anything(pii, text):
    scores = score(pii, text)
    assert not scores.spans
    assert scores.unread is None
    assert set(scores.by_head["pii"].values()) == {0.0}
    assert scores.windows == (1 if text == "\u200b" else 0)


def test_a_text_that_is_all_personal_data(pii):
    text = " ".join(f"user{at}@example.com" for at in range(1000))
    assert found(pii, text) == [("EMAIL_ADDRESS", one) for one in text.split()]


@pytest.mark.parametrize("before", ["é", "Straße für ", "🙂🙂 ", "日本語、", "\ud800 ", "e\u0301\u200d"])
def test_offsets_count_characters(pii, before):
    text = f"{before} {MAIL} {before}"
    assert found(pii, text) == [("EMAIL_ADDRESS", MAIL)]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("to a\u200bda@example.com now", "a\u200bda@example.com"),
        ("to \uff41da@example.com now", "\uff41da@example.com"),
        ("card \uff14111 1111 1111 1111", "\uff14111 1111 1111 1111"),
        ("card 4111\u20101111\u22121111\u00a01111", "4111\u20101111\u22121111\u00a01111"),
        ("call +\u0664\u0664 20 7946 0958", "+\u0664\u0664 20 7946 0958"),
        ("not this\u2014ada@example.com", MAIL),
        ("see YWRhQGV4YW1wbGUuY29tIGlzIG15IG1haWw= there", "YWRhQGV4YW1wbGUuY29tIGlzIG15IG1haWw="),
    ],
)
def test_a_text_is_read_as_it_is_meant_too(pii, text, part):
    assert [content for _, content in found(pii, text)] == [part]


def test_overlapping_findings_of_one_label_are_one_and_of_two_are_two():
    findings = [
        Finding(10, 20, "A", 0.5),
        Finding(15, 25, "A", 0.9),
        Finding(12, 14, "B", 0.4),
        Finding(25, 30, "A", 0.6),
        Finding(11, 12, "A", 1.0),
    ]
    assert merged(findings) == [
        Finding(10, 25, "A", 1.0),
        Finding(12, 14, "B", 0.4),
        Finding(25, 30, "A", 0.6),
    ]


def test_what_lies_in_something_else_is_told_too():
    detector = PiiDetector(["EMAIL_ADDRESS", "IP_ADDRESS", "URL", "US_SSN"])
    # All but the domain of a mail address, which is no address of its own.
    assert found(detector, f"{MAIL} www.example.com") == [("EMAIL_ADDRESS", MAIL), ("URL", "www.example.com")]
    url = "https://example.com/?ssn=856-45-6789"
    assert found(detector, url) == [("URL", url), ("US_SSN", "856-45-6789")]
    mail = "856-45-6789@example.com"
    assert found(detector, mail) == [("US_SSN", "856-45-6789"), ("EMAIL_ADDRESS", mail)]


def test_a_recognizer_of_ones_own():
    badge = PatternRecognizer("BADGE", patterns=[Pattern("badge", r"\bB-\d{6}\b", 0.3)], context=["badge"])
    detector = PiiDetector(["EMAIL_ADDRESS"], recognizers=[badge])
    assert detector.labels == {"pii": ("BADGE", "EMAIL_ADDRESS")}
    assert found(detector, f"badge B-123456 of {MAIL}") == [("BADGE", "B-123456"), ("EMAIL_ADDRESS", MAIL)]
    # Too weak without a word for it.
    assert found(detector, "B-123456") == []
    assert badge.patterns[0].compiled_regex is None


def test_entity_types_of_any_country_in_any_language():
    assert found(PiiDetector(["DE_TAX_ID"]), "12345678903") == found(
        PiiDetector(["DE_TAX_ID"], language="de"), "12345678903"
    )
    assert PiiDetector(language=["en", "es"]).labels["pii"] > PiiDetector(language="es").labels["pii"]
    spanish = "la tarjeta 4111111111111111 y el NIF 55555555K"
    assert found(PiiDetector(["CREDIT_CARD", "ES_NIF"], language=["en", "es"]), spanish) == [
        ("CREDIT_CARD", "4111111111111111"),
        ("ES_NIF", "55555555K"),
    ]


# Long texts


def test_a_text_is_read_whole_in_pieces_that_are_short(pii, monkeypatch):
    sizes = []
    findings = pii._analyzer.findings
    monkeypatch.setattr(pii._analyzer, "findings", lambda text, until: sizes.append(len(text)) or findings(text, until))
    filler = "some harmless words, and then more. " * 700
    text = f"{MAIL} {filler}{CARD} {filler}{PHONE}"
    assert {"EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER"} <= {label for label, _ in found(pii, text)}
    assert max(sizes) <= PIECE
    assert len(sizes) <= len(text) / (PIECE - 2 * OVERLAP) + 1
    assert score(pii, text).windows == len(sizes) / 2


@pytest.mark.parametrize("filler", ["word ", "x,", "x" * 50 + ";", "日本"])
@pytest.mark.parametrize("entity", [MAIL, CARD, PHONE])
def test_an_entity_at_the_border_of_two_pieces_is_found_once(filler, entity):
    detector = PiiDetector(["EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER"])
    for at in [*range(PIECE - OVERLAP - 150, PIECE + 20, 53), *range(PIECE - 18, PIECE + 3, 3)]:
        before = (filler * PIECE)[:at] + " "
        text = before + entity + " " + (filler * PIECE)[:1500]
        spans = [span for span in score(detector, text).spans if text[span.start : span.end] == entity]
        assert [(span.start, span.end) for span in spans] == [(len(before), len(before) + len(entity))], at
        assert score(detector, text).windows == 2


def test_an_entity_that_no_piece_holds_is_found_to_its_end():
    detector = PiiDetector(["URL", "EMAIL_ADDRESS"])
    url = "https://example.com/" + "x" * (3 * PIECE)
    assert found(detector, f"see {url} and {MAIL}") == [("URL", url), ("EMAIL_ADDRESS", MAIL)]
    mail = "a" * (2 * PIECE) + "@example.com"
    assert found(detector, f"to {mail} now") == [("EMAIL_ADDRESS", mail)]


def test_a_border_makes_no_findings_of_its_own():
    # What stands before the number says that it is none, and a piece that begins between them does not know.
    free = PatternRecognizer("NUMBER", patterns=[Pattern("number", r"(?<!ref )\b\d{6}\b", 0.9)])
    detector = PiiDetector(["PHONE_NUMBER"], recognizers=[free])
    for shift in range(len("ref 123456 ")):
        text = "x" * shift + " " + "ref 123456 " * (2 * PIECE // 11)
        assert found(detector, text) == []
    assert found(detector, f"{text} no 123456") == [("NUMBER", "123456")]


def test_a_text_over_the_budget_is_unread():
    detector = PiiDetector(["EMAIL_ADDRESS"], budget=100)
    assert detector.budget == 100
    assert found(detector, MAIL + " " * (100 - len(MAIL))) == [("EMAIL_ADDRESS", MAIL)]
    scores = score(detector, MAIL + " " * (101 - len(MAIL)))
    assert scores.unread == "the text has more than 100 characters, the budget of a step"
    assert (scores.over_budget, scores.by_head, scores.windows) == (True, {}, 0)
    assert PiiDetector(["EMAIL_ADDRESS"], budget=None).budget is None


def test_equal_texts_are_read_once(pii, monkeypatch):
    read = []
    findings = pii._analyzer.findings
    monkeypatch.setattr(pii._analyzer, "findings", lambda text, until: read.append(text) or findings(text, until))
    steps = [Step(stage="input", text=text) for text in (MAIL, CARD, MAIL)]
    first, _, third = pii.score(steps, keys=["a", "b", "c"])
    assert first is third
    assert read == [MAIL, CARD]
    assert pii.score([]) == []


# Hostile texts


def test_a_pattern_that_takes_too_long_leaves_the_text_unread():
    catastrophe = PatternRecognizer("X", patterns=[Pattern("x", r"(a|aa)+$", 0.9)])
    # Phone numbers are found without patterns, so that nobody else sees that the time is over.
    detector = PiiDetector(["PHONE_NUMBER"], recognizers=[catastrophe], seconds=0.05)
    assert found(detector, "aaa") == [("X", "aaa")]
    began = time.perf_counter()
    scores = score(detector, "a" * 100 + "b")
    assert time.perf_counter() - began < 30
    assert scores.unread == "looking for personal data took more than 0.2 s"
    assert scores.over_budget


def test_the_time_is_that_of_all_pieces_together():
    slow = PatternRecognizer("X", patterns=[Pattern("x", r"(?:www\.|a\.)+zz", 0.9)])
    detector = PiiDetector(["EMAIL_ADDRESS"], recognizers=[slow], seconds=0.001)
    scores = score(detector, "a." * (20 * PIECE))
    assert scores.over_budget
    assert "more than" in scores.unread


@pytest.mark.parametrize(
    "part",
    [
        "1 ",
        "a.",
        "(",
        "((1)",
        "a@",
        "x@a.",
        "0:",
        "+1",
        "www.",
        "12-34/",
        "1;;;",
        "212-555-0123 ",
        "\u0661",
        "²",
        "\x00",
        "-",
    ],
)
def test_no_text_takes_long_or_breaks_it(pii, part):
    began = time.thread_time()
    scores = score(pii, part * (2 * PIECE // len(part)))
    assert scores.unread is None
    # Twenty times what it takes; without pieces it is minutes.
    assert time.thread_time() - began < 20


def test_a_recognizer_that_fails_fails_the_call_without_the_text(caplog):
    class Broken(PatternRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            raise ValueError(pattern_text)

    detector = PiiDetector(["EMAIL_ADDRESS"], recognizers=[Broken("X", patterns=[Pattern("x", r"secret\w+", 0.9)])])
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(DetectorError, match=r"Presidio failed on a text: ValueError$") as info,
    ):
        score(detector, "secretive")
    assert info.value.__suppress_context__
    assert "secretive" not in caplog.text


def test_presidios_own_patterns_are_left_alone(pii):
    assert found(pii, "192.0.2.17") == [("IP_ADDRESS", "192.0.2.17")]
    for pattern in IpRecognizer.PATTERNS:
        assert pattern.compiled_regex is None or isinstance(pattern.compiled_regex, type(regex.compile("")))


def test_threads_share_it(pii, model):
    for detector in (pii, PiiDetector(ner=str(model))):
        texts = [f"{'word ' * at}Ada Quill, {MAIL}, {PHONE}" for at in range(60)]
        alone = [score(detector, text) for text in texts]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda text, one=detector: score(one, text), texts)) == alone


# Names and places


def test_a_language_model_finds_names_and_places(model):
    detector = PiiDetector(ner=str(model))
    text = f"Ada Quill of Acme in Northport owes 5 dollars to {MAIL}"
    assert found(detector, text) == [
        ("PERSON", "Ada Quill"),
        ("LOCATION", "Northport"),
        ("EMAIL_ADDRESS", MAIL),
    ]
    assert score(detector, text).backend == "presidio+spacy"
    assert found(PiiDetector(["ORGANIZATION"], ner=str(model)), text) == [("ORGANIZATION", "Acme")]
    assert found(PiiDetector(["EMAIL_ADDRESS"], ner=str(model)), text) == [("EMAIL_ADDRESS", MAIL)]


def test_names_in_long_texts(model):
    detector = PiiDetector(["PERSON"], ner=str(model))
    text = ("word " * 500 + "Ada Quill ") * 10
    assert found(detector, text) == [("PERSON", "Ada Quill")] * 10


def test_the_largest_installed_model_is_taken(monkeypatch):
    asked = []

    def load(name: str, *, exclude: Sequence[str]) -> spacy.Language:
        asked.append(name)
        nlp = spacy.blank("en")
        nlp.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ada Quill"}])
        return nlp

    monkeypatch.setattr(spacy.util, "get_installed_models", lambda: ["de_a_lg", "en_a_sm", "en_a_lg", "en_a_trf"])
    monkeypatch.setattr(spacy.util, "is_package", lambda name: True)
    monkeypatch.setattr(spacy, "load", load)
    PiiDetector(["PERSON"], ner=True)
    PiiDetector(["PERSON"], language=["de", "en"], ner=True)
    assert asked == ["en_a_lg", "de_a_lg", "en_a_lg"]


def test_a_model_that_is_missing_is_told_and_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(spacy.util, "get_installed_models", list)
    for given, name in [
        ({"ner": True}, "en_core_web_sm"),
        ({"ner": True, "language": "de"}, "de_core_news_sm"),
        ({"ner": "en_core_web_trf"}, "en_core_web_trf"),
    ]:
        with pytest.raises(DetectorError, match=f"installed; run: python -m spacy download {name} "):
            PiiDetector(**given)
    spacy.blank("en").to_disk(tmp_path / "empty")
    with pytest.raises(DetectorError, match="finds no names"):
        PiiDetector(ner=str(tmp_path / "empty"))


# How it is made


def test_it_is_named_by_what_decides_what_is_found(model):
    badge = PatternRecognizer("BADGE", patterns=[Pattern("badge", r"B-\d+", 0.9)])
    other = PatternRecognizer("BADGE", patterns=[Pattern("badge", r"C-\d+", 0.9)])
    ways = [
        {},
        {"entities": ["EMAIL_ADDRESS"]},
        {"entities": ["EMAIL_ADDRESS", "URL"]},
        {"language": ["en", "es"]},
        {"threshold": 0.5},
        {"ner": str(model)},
        {"recognizers": [badge]},
        {"recognizers": [other]},
    ]
    names = [PiiDetector(**way).detector_id for way in ways]
    assert len(set(names)) == len(ways)
    assert [PiiDetector(**way).detector_id for way in ways] == names
    assert PiiDetector(["URL", "EMAIL_ADDRESS"], budget=5, seconds=9.0).detector_id == names[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"entities": ["EMAIL"]}, "no recognizer finds 'EMAIL'; did you mean EMAIL_ADDRESS?"),
        ({"entities": ["XYZZY"]}, "no recognizer finds 'XYZZY'$"),
        ({"entities": ["PERSON"]}, "PERSON is found by a language model only; give ner=True"),
        ({"entities": "URL"}, r"entities must be a list: give \['URL'\]"),
        ({"entities": []}, "no entity types are given"),
        ({"language": []}, "no language is given"),
        ({"language": "klingon"}, "'klingon' is no language that spaCy knows"),
        ({"threshold": 0.0}, "threshold must be above 0 and at most 1, not 0.0"),
        ({"threshold": 1.1}, "threshold must be"),
        ({"threshold": float("nan")}, "threshold must be"),
        ({"budget": 0}, "budget and seconds must be above 0"),
        ({"seconds": float("nan")}, "budget and seconds must be above 0"),
    ],
)
def test_what_can_not_be_is_refused(given, message):
    with pytest.raises(DetectorError, match=message):
        PiiDetector(**given)


def test_the_threshold_says_what_a_finding_is():
    text = "415-555-0132"
    assert found(PiiDetector(["PHONE_NUMBER"], threshold=0.4), text) == [("PHONE_NUMBER", text)]
    scores = score(PiiDetector(["PHONE_NUMBER"], threshold=0.41), text)
    assert scores.by_head == {"pii": {"PHONE_NUMBER": 0.0}}


def test_without_the_extra_it_says_what_to_run(monkeypatch):
    monkeypatch.delattr(lec_guard.detect, "presidio")
    monkeypatch.delitem(sys.modules, "lec_guard.detect.presidio")
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(
        DetectorError, match=r"PiiDetector needs presidio_analyzer; run: pip install 'lec-guard\[pii\]'"
    ):
        PiiDetector()


# In a guard

POLICY = """
fail:
  output: {budget: flag}
rules:
  - name: personal-data
    stages: [input, output]
    head: pii
    labels: [EMAIL_ADDRESS, CREDIT_CARD]
    threshold: 0.5
    action: block
  - name: attack
    stages: [input]
    head: injection
    threshold: 0.5
    action: block
"""


def test_a_policy_reads_it_beside_other_heads(tmp_path, pii):
    injection = KeywordDetector({"injection": {"injection": ["attack"]}})
    guard = Guard(write_policies(tmp_path, {"default.yaml": POLICY}), CompositeDetector(injection, pii))
    text = f"Write to {MAIL}"
    verdict = guard.check(Step(stage="output", text=text))
    assert (verdict.action, verdict.rule) == ("block", "personal-data")
    assert verdict.spans == (Span(start=9, end=len(text), head="pii", label="EMAIL_ADDRESS", score=1.0),)
    assert verdict.scores["pii"]["EMAIL_ADDRESS"] == 1.0
    assert guard.check(Step(stage="input", text="An attack.")).rule == "attack"
    # A phone number is found, and no rule reads it.
    verdict = guard.check(Step(stage="output", text=f"Call {PHONE}"))
    assert (verdict.action, verdict.scores["pii"]["PHONE_NUMBER"] > 0) == ("allow", True)
    assert verdict.detector_id == f"keywords+{pii.detector_id}"


def test_a_text_over_the_budget_gets_what_the_policy_says(tmp_path):
    injection = KeywordDetector({"injection": {"injection": ["attack"]}})
    composite = CompositeDetector(injection, PiiDetector(["EMAIL_ADDRESS", "CREDIT_CARD"], budget=10))
    guard = Guard(write_policies(tmp_path, {"default.yaml": POLICY}), composite)
    actions = [guard.check(Step(stage=stage, text="eleven char")).action for stage in ("input", "output")]
    assert actions == ["block", "flag"]
