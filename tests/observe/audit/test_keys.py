"""A key is never shown, and no two uses of it can be mixed up."""

from __future__ import annotations

import pytest

from lec_guard import SinkError
from lec_guard.observe.audit.keys import ZERO, Key
from tests.observe.audit.made import KEY, OTHER


def test_each_use_has_a_signature_of_its_own():
    key = Key(KEY)
    assert len({key.id, key.text.hex(), key.line("", b"x"), key.head(b"x"), Key(OTHER).line("", b"x")}) == 5


def test_a_signature_is_of_all_that_stands_before():
    key = Key(KEY)
    assert len({key.line(ZERO, b"x"), key.line("1" * 64, b"x"), key.line(ZERO, b"y")}) == 3


def test_it_shows_only_its_id():
    assert repr(Key(KEY)) == f"Key(id='{Key(KEY).id}')"
    assert not any(Key(KEY).id in one for one in (KEY.hex(), Key(KEY).text.hex()))


@pytest.mark.parametrize("value", ["", "  \n"])
def test_an_empty_variable_is_no_key(monkeypatch, value):
    monkeypatch.setenv("AUDIT_KEY", value)
    with pytest.raises(SinkError, match="AUDIT_KEY holds no key"):
        Key.of("AUDIT_KEY")
