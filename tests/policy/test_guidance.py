"""What a policy says of guidance: what it inherits, what the floor keeps, and how mistakes are told."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lec_guard import PolicyError
from lec_guard.policy.guidance import (
    ORIGINS,
    Guidance,
    GuidanceByOrigin,
    GuidanceRule,
    bounded,
    least_trusted,
    raised,
)
from lec_guard.policy.resolve import Policy
from lec_guard.policy.store import InForce, PolicyStore
from lec_guard.step import Trust
from tests.conftest import write_policies
from tests.policy.made import FILE, heads, parsed, resolved, rule, rules

RULES = rules(rule())


def by_origin(policy: Policy) -> dict[str, float]:
    assert policy.guidance is not None
    return dict(policy.guidance.coefficients)


def same(coefficient: float, **origins: float) -> dict[str, float]:
    return {**dict.fromkeys(get_args(Trust), coefficient), **origins}


def ruled(coefficient: float, space: str = "log") -> GuidanceRule:
    return GuidanceRule(coefficient=coefficient, space=space)


# --- what may be said


@pytest.mark.parametrize(
    ("said", "coefficients", "space"),
    [
        ("2.5", same(2.5), "log"),
        ("2", same(2.0), "log"),
        ("0", same(0.0), "log"),
        ("1", same(1.0), "log"),
        ("100", same(100.0), "log"),
        ("{}", same(1.0), "log"),
        ("{coefficient: 1.5, space: probability}", same(1.5), "probability"),
        ("{origins: {third_party: 3}}", same(1.0, third_party=3.0), "log"),
        ("{coefficient: 2, origins: {user: 1, model: 0}}", same(2.0, user=1.0, model=0.0), "log"),
    ],
)
def test_what_is_said_holds_by_origin(said, coefficients, space):
    policy = resolved(f"guidance: {said}\n{RULES}")
    assert (by_origin(policy), policy.guidance.space) == (coefficients, space)


@pytest.mark.parametrize("said", ["", "guidance:\n", "guidance: null\n"])
def test_what_nobody_says_is_nothing(said):
    assert resolved(said + RULES).guidance is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("-1", "guidance: Input should be greater than or equal to 0"),
        ("-0.001", "guidance: Input should be greater than or equal to 0"),
        ("100.001", "guidance: Input should be less than or equal to 100"),
        ("1.0e+300", "guidance: Input should be less than or equal to 100"),
        (f"1{'0' * 90}", "guidance: Input should be less than or equal to 100"),
        (".nan", "guidance: Input should be a finite number"),
        (".inf", "guidance: Input should be a finite number"),
        ("-.inf", "guidance: Input should be a finite number"),
        ("true", "guidance: Input should be a valid number"),
        ("high", "guidance: Input should be a valid number"),
        ("'2'", "guidance: Input should be a valid number"),
        ("1e1", "guidance: Input should be a valid number; write it with a point, as 0.001"),
        ("[2]", "guidance: give a coefficient, or a mapping with one"),
        ("{coefficient: -1}", "guidance.coefficient: Input should be greater than or equal to 0"),
        ("{coefficient: .nan}", "guidance.coefficient: Input should be a finite number"),
        ("{coefficient: '2'}", "guidance.coefficient: Input should be a valid number"),
        ("{coefficient: 1e1}", "guidance.coefficient: Input should be a valid number; write it with a point, as 0.001"),
        ("{coeficient: 2}", "guidance.coeficient: Extra inputs are not permitted; did you mean 'coefficient'?"),
        ("{space: logs}", "guidance.space: Input should be 'log' or 'probability'; did you mean 'log'?"),
        (
            "{space: probabilities}",
            "guidance.space: Input should be 'log' or 'probability'; did you mean 'probability'?",
        ),
        (
            "{origins: {third-party: 2}}",
            "guidance.origins.third-party: Input should be 'operator', 'user', 'model' or 'third_party'; "
            "did you mean 'third_party'?",
        ),
        (
            "{origins: {stranger: 2}}",
            "guidance.origins.stranger: Input should be 'operator', 'user', 'model' or 'third_party'",
        ),
        ("{origins: {user: 101}}", "guidance.origins.user: Input should be less than or equal to 100"),
        ("{origins: {user: .nan}}", "guidance.origins.user: Input should be a finite number"),
        ("{origins: {user: {coefficient: 2}}}", "guidance.origins.user: Input should be a valid number"),
        ("{origins: 2}", "guidance.origins: Input should be a valid dictionary"),
        (
            "{sequential: true}",
            "guidance.sequential: Extra inputs are not permitted; known: coefficient, space, origins",
        ),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(said, told):
    with pytest.raises(PolicyError) as caught:
        parsed(f"mode: enforce\nguidance: {said}\n{RULES}")
    assert str(caught.value).startswith(f"{FILE}:2:")
    assert str(caught.value).partition(" ")[2] == told


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("-1", ".guidance: Input should be greater than or equal to 0"),
        (".nan", ".guidance: Input should be a finite number"),
        ("high", ".guidance: Input should be a valid number"),
        ("[2]", ".guidance: give a coefficient, or a mapping with one"),
        ("{space: log}", ".guidance.coefficient: Field required"),
        ("{coefficient: 2, space: lg}", ".guidance.space: Input should be 'log' or 'probability'; did you mean 'log'?"),
        (
            "{coefficient: 2, origins: {user: 2}}",
            ".guidance.origins: Extra inputs are not permitted; known: coefficient, space",
        ),
    ],
)
def test_so_is_what_means_nothing_in_a_rewrite(said, told):
    with pytest.raises(PolicyError) as caught:
        parsed(f"rewrite:\n  anew: {{kind: regenerate, instruction: x, guidance: {said}}}\n")
    assert str(caught.value).startswith(f"{FILE}:2:")
    assert str(caught.value).partition(" ")[2] == f"rewrite.anew{told}"


@pytest.mark.parametrize("said", ["2.5", "{coefficient: 2.5}", "{coefficient: 2.5, space: log}"])
def test_a_rewrite_has_one_guidance_however_it_is_written(said):
    text = f"rewrite: {{anew: {{kind: regenerate, instruction: x, guidance: {said}}}}}\n{RULES}"
    assert resolved(text).rewrite["anew"].guidance == ruled(2.5)
    assert resolved(text).version == resolved(text.replace(said, "2.50")).version
    assert resolved(text).version != resolved(text.replace(f", guidance: {said}", "")).version


# --- what is inherited


def test_it_is_laid_over_what_is_inherited_key_by_key():
    parent = "guidance: {coefficient: 2, space: probability, origins: {third_party: 4, user: 3}}\n" + RULES
    child = resolved("guidance: {origins: {user: 2.5}}", parent)
    assert by_origin(child) == same(2.0, third_party=4.0, user=2.5)
    assert child.guidance.space == "probability"
    assert by_origin(resolved("guidance: 1.5", parent)) == same(1.5, third_party=4.0, user=3.0)
    assert by_origin(resolved("", "guidance: {space: log}", parent)) == same(2.0, third_party=4.0, user=3.0)
    assert resolved("", "guidance: {space: log}", parent).guidance.space == "log"


def test_each_key_knows_where_it_was_said():
    child = "guidance:\n  origins:\n    user: 2\n"
    policy = resolved(child, f"guidance: 3\n{RULES}")
    assert policy.where("guidance.origins.user") == f"{FILE}:3:5"
    assert policy.where("guidance.coefficient") == f"{FILE.parent / 'parent0.yaml'}:1:1"
    assert "guidance.space" not in policy.sources


SAID = "guidance: {coefficient: 2, origins: {user: 3}}\n"


@pytest.mark.parametrize(
    "other",
    [
        "",
        "guidance: 2\n",
        "guidance: {coefficient: 2.5, origins: {user: 3}}\n",
        "guidance: {coefficient: 2, origins: {model: 3}}\n",
        "guidance: {coefficient: 2, origins: {user: 3}, space: probability}\n",
    ],
)
def test_the_version_changes_with_it(other):
    assert resolved(other + RULES).version != resolved(SAID + RULES).version


@pytest.mark.parametrize(
    "other",
    [
        "guidance: {origins: {user: 3.0}, space: log, coefficient: 2.0}\n",
        "guidance: {coefficient: 9, origins: {operator: 2, model: 2, third_party: 2, user: 3}}\n",
    ],
)
def test_the_version_stays_where_it_says_the_same(other):
    assert resolved(other + RULES).version == resolved(SAID + RULES).version


# --- what holds


def test_an_origin_that_is_not_known_has_the_highest():
    found = GuidanceByOrigin.of([Guidance(coefficient=2.0, origins={"user": 5.0, "third_party": 3.0})])
    assert found is not None
    assert found.rule(None) == ruled(5.0)


@pytest.mark.parametrize(
    ("said", "least", "holds"),
    [
        (None, None, None),
        (ruled(2), None, ruled(2)),
        (None, ruled(2), ruled(2)),
        (None, ruled(1), ruled(1)),
        (ruled(2), ruled(3), ruled(3)),
        (ruled(3), ruled(2), ruled(3)),
        (ruled(0), ruled(1), ruled(1)),
        # A number of another space is none of the floor's.
        (ruled(2, "probability"), ruled(2, "log"), ruled(2, "log")),
        (ruled(50, "probability"), ruled(2, "log"), ruled(50, "log")),
        # No guidance is none in either.
        (ruled(2, "probability"), ruled(1, "log"), ruled(2, "probability")),
        (ruled(0.5, "probability"), ruled(0.2, "log"), ruled(0.5, "log")),
    ],
)
def test_the_higher_of_policy_and_floor_holds(said, least, holds):
    assert raised(said, least) == holds


coefficients = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 50.0, 100.0])
said = st.builds(
    Guidance,
    coefficient=st.none() | coefficients,
    space=st.none() | st.sampled_from(["log", "probability"]),
    origins=st.dictionaries(st.sampled_from(ORIGINS), coefficients),
)
whole = st.lists(said, max_size=3).map(GuidanceByOrigin.of)


@given(whole, whole, st.none() | st.sampled_from(ORIGINS))
def test_no_policy_gets_below_a_floor(policy, floor, trust):
    alone, both = bounded(None, floor, trust), bounded(policy, floor, trust)
    if alone is None:
        assert both == bounded(policy, None, trust)
        return
    assert both is not None
    assert both.coefficient >= alone.coefficient
    assert both.space == alone.space or both.coefficient >= 1.0 >= alone.coefficient


def test_who_wrote_the_least_trusted_text():
    assert set(ORIGINS) == set(get_args(Trust))
    assert least_trusted(["operator", "user", "model"]) == "user"
    assert least_trusted(["operator", "user", "third_party", "model"]) == "third_party"
    assert least_trusted(["operator", "model"]) == "model"
    assert least_trusted(["operator"]) == "operator"
    assert least_trusted(iter(["operator", None])) is None
    assert least_trusted([]) is None


# --- in force


def loaded(folder: Path, **files: str) -> PolicyStore:
    names = {"default.yaml": RULES} | {f"{name.replace('__', '/')}.yaml": text + RULES for name, text in files.items()}
    return PolicyStore(write_policies(folder, names), lambda _: heads())


FLOOR = "guidance: {coefficient: 1.5, origins: {third_party: 3}}\n"


def test_the_floor_is_a_lower_bound_for_each_origin(tmp_path):
    own = "guidance: {coefficient: 2, origins: {third_party: 2, user: 1}}\n"
    store = loaded(tmp_path, floor=FLOOR, tenants__t=own)
    held = {trust: store.get("t").guidance(trust) for trust in (*ORIGINS, None)}
    assert held == {
        "third_party": ruled(3), "user": ruled(1.5), "model": ruled(2), "operator": ruled(2), None: ruled(3),
    }  # fmt: skip
    assert store.get(None).guidance("user") == store.get("t").least_guidance("user") == ruled(1.5)


def test_a_tenant_that_extends_the_floor_and_says_less_gets_no_less(tmp_path):
    store = loaded(tmp_path, floor=FLOOR, tenants__t="extends: floor\nguidance: {coefficient: 0, origins: {user: 0}}\n")
    assert [store.get("t").guidance(trust) for trust in ("user", "third_party")] == [ruled(1.5), ruled(3)]


@pytest.mark.parametrize(("own", "floor"), list(product([False, True], repeat=2)))
def test_what_only_watches_does_not_act(tmp_path, own, floor):
    def mode(watches: bool) -> str:
        return "mode: shadow\n" if watches else ""

    store = loaded(tmp_path, floor=mode(floor) + FLOOR, tenants__t=mode(own) + "guidance: 2\n")
    expected = {(False, False): 2.0, (False, True): 2.0, (True, False): 1.5, (True, True): None}[own, floor]
    found = store.get("t").guidance("user")
    assert found == (None if expected is None else ruled(expected))
    assert store.get("t").least_guidance("user") == (None if floor else ruled(1.5))


def test_a_candidate_is_never_asked(tmp_path):
    store = loaded(tmp_path, next="guidance: 9\n", tenants__t="candidate: next\nguidance: 2\n")
    assert store.get("t").guidance("user") == ruled(2)


def test_without_any_nothing_holds(tmp_path):
    found: InForce = loaded(tmp_path).get(None)
    assert (found.guidance("third_party"), found.guidance(None), found.least_guidance(None)) == (None, None, None)


def test_a_change_is_taken_at_reload_and_a_mistake_is_not(tmp_path):
    store = loaded(tmp_path, tenants__t="guidance: 2\n")
    file = tmp_path / "tenants" / "t.yaml"
    file.write_text(f"guidance: 3\n{RULES}", encoding="utf-8")
    assert [one.name for one in store.reload().renewed] == ["t"]
    file.write_text(f"guidance: {math.nan}\n{RULES}", encoding="utf-8")
    assert [one.name for one in store.reload().refused] == ["t"]
    assert store.get("t").guidance("user") == ruled(3)
