"""What users are told."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from lec_guard import PolicyError
from lec_guard.policy.messages import FIELDS, Message, Messages, in_order
from tests.policy.made import compiled, resolved, rule, rules

NAMES = {"rule": "r", "stage": "input", "tenant": "acme", "policy": "strict", "version": "0123"}


def test_every_name_is_filled_in():
    text = " ".join(f"{name}={{{name}}}" for name in FIELDS)
    expected = " ".join(f"{name}={NAMES[name]}" for name in FIELDS)
    assert Messages.of(text).render(**NAMES) == {"default": expected}


def test_without_a_tenant_its_place_is_empty():
    assert Messages.of("[{tenant}]").render(**{**NAMES, "tenant": None}) == {"default": "[]"}


def test_each_language_is_filled_in_by_itself():
    assert Messages.of({"de": "Nein: {rule}", "en": "No: {stage}"}).render(**NAMES) == {
        "de": "Nein: r",
        "en": "No: input",
    }


def test_doubled_braces_are_braces():
    assert Messages.of("{{rule}} {rule}").render(**NAMES) == {"default": "{rule} r"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{text}", "{text} can't be filled in"),
        ("{user}", "{user} can't be filled in"),
        ("{}", "{} can't be filled in"),
        ("{0}", "{0} can't be filled in"),
        ("{rule.__class__}", "{rule.__class__} can't be filled in"),
        ("{rule[0]}", "{rule[0]} can't be filled in"),
        ("{rule!r}", "{rule} can't be filled in"),
        ("{rule:>999999999}", "{rule} can't be filled in"),
        ("{rule:{stage}}", "{rule} can't be filled in"),
        ("{rule", "write {{ and }} for braces"),
        ("rule}", "write {{ and }} for braces"),
        ("{ rule }", "{ rule } can't be filled in"),
    ],
)
def test_what_could_not_be_filled_in_is_refused_while_the_author_looks_on(text, part):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Message).validate_python(text)
    assert part in str(caught.value)
    with pytest.raises(ValidationError):
        TypeAdapter(Message).validate_python({"de": text})


def test_what_is_filled_in_is_not_filled_in_again():
    # Names are the operator's own and hold no braces; this only shows that nothing would come of it.
    assert Messages.of("{rule}").render(**{**NAMES, "rule": "{tenant}"}) == {"default": "{tenant}"}


def test_the_policys_language_comes_first():
    texts = {"en": "No", "de": "Nein", "fr": "Non"}
    assert list(in_order(texts, "de", "here")) == ["de", "en", "fr"]
    assert list(in_order(texts, None, "here")) == ["en", "de", "fr"]
    assert in_order({"default": "No"}, "de", "here") == {"default": "No"}


def test_a_language_without_a_text_is_refused_with_its_place():
    with pytest.raises(PolicyError, match=r"^here: no message in 'it'; there are: en, de$"):
        in_order({"en": "No", "de": "Nein"}, "it", "here")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("locale: it\nmessage: {de: Nein}\n" + rules(rule()), "mine.yaml:2:1"),
        ("locale: it\n" + rules(rule(message="{de: Nein}")), "mine.yaml:3:5"),
        (
            "locale: it\n" + rules(rule(stages="[tool_output]", tools="{x: {message: {de: Nein}}}")),
            "mine.yaml:3:5",
        ),
        ("locale: it\nrewrite:\n  a: {kind: replace, text: {de: Weg}}\n" + rules(rule()), "mine.yaml:3:3"),
    ],
    ids=["policy", "rule", "tool", "replacement"],
)
def test_every_message_of_a_policy_has_its_language(text, place):
    with pytest.raises(PolicyError, match=rf"{place}: no message in 'it'; there are: de"):
        resolved(text)
    resolved(text.replace("locale: it", "locale: de"))


def test_an_inherited_message_is_put_in_the_order_of_the_childs_language():
    parent = "message: {en: Gone, de: Weg}\n" + rules(rule(message="{en: Stop, de: Halt}"))
    child = compiled("extends: parent0\nlocale: de", parents=[parent])
    assert list(child.policy.message.texts) == ["de", "en"]
    (reading,) = child.readings["input"].usual
    assert reading.message.texts == {"de": "Halt", "en": "Stop"}
    assert list(reading.message.texts) == ["de", "en"]
