"""A tenant's policy as a calibration needs it: where it lies, with whose detector, and whatever an earlier one says."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from lec_guard.detect.bundle import EMBEDDED
from lec_guard.errors import PolicyError, UnsupportedValueError
from lec_guard.guard import heads_of
from lec_guard.policy.store import PolicyStore
from lec_guard.train.own_traffic import recalibrate
from lec_guard.train.tenant import read_tenant, write_calibration
from tests.conftest import write_policies
from tests.train.test_own_traffic import ATTACKS, POLICIES, RULE, Said, calibrated, texts


@pytest.fixture
def folder(tmp_path):
    return write_policies(tmp_path / "policies", POLICIES)


@pytest.mark.parametrize(
    ("files", "tenant", "expected", "is_named"),
    [
        ({}, "acme", "calibrations/acme.json", False),
        ({}, None, "calibrations/default.json", False),
        ({"tenants/big/policy.yaml": "extends: default"}, "big", "tenants/big/big.calibration.json", False),
        ({"tenants/big/policy.yaml": "extends: default\ncalibration: a/b.json"}, "big", "tenants/big/a/b.json", True),
        ({"tenants/acme.yaml": "extends: default\ncalibration: x.json"}, "acme", "x.json", True),
        # What the shared policy names is everybody's.
        ({"default.yaml": f"calibration: x.json\nrules: [{RULE}]"}, "acme", "calibrations/acme.json", False),
    ],
)
def test_a_calibration_lies_where_the_tenants_own_file_says_or_where_that_may_name_it(
    folder, files, tenant, expected, is_named
):
    policy = read_tenant(write_policies(folder, files), tenant, Said())
    assert (policy.file, policy.is_named) == (folder / expected, is_named)


def test_what_extends_another_policy_is_read_with_it(folder):
    write_policies(
        folder,
        {
            "tenants/big/policy.yaml": "extends: base\nhold_back: 500\n",
            "tenants/big/base.yaml": f"extends: default\nrules:\n  - {RULE.replace('0.01', '0.02')}\n",
        },
    )
    policy = read_tenant(folder, "big", Said())
    assert (policy.live.thresholds[0].budget, policy.live.policy.hold_back) == (0.02, 500)
    with pytest.raises(PolicyError, match="no tenant 'bgi'; did you mean 'big'"):
        read_tenant(folder, "bgi", Said())
    with pytest.raises(PolicyError, match="can't be the name of a tenant"):
        read_tenant(folder, "../default", Said())


@pytest.mark.parametrize(
    ("detector_id", "content", "said"),
    [("other@2", None, "was made with said@1, but the detector is other@2"), ("said@1", "{", "run lec-guard policy")],
    ids=["another detector", "half written"],
)
def test_a_calibration_that_cant_be_used_is_refused_at_load_and_can_be_made_anew(folder, detector_id, content, said):
    (folder / "tenants" / "acme.yaml").write_text("extends: default\ncalibration: mine.json\n")
    traffic = texts(np.linspace(0.001, 0.75, 1000))
    first = read_tenant(folder, "acme", Said())
    assert first.stale is not None  # Named, and not there yet.
    write_calibration(recalibrate(first, traffic, ATTACKS).calibration, first.file)
    assert read_tenant(folder, "acme", Said()).stale is None
    detector = Said(detector_id=detector_id)
    if content is not None:
        first.file.write_text(first.file.read_text()[:-100] if content == "{" else content)
    with pytest.raises(PolicyError, match=said):
        PolicyStore(folder, lambda _: heads_of(detector))
    policy = read_tenant(folder, "acme", detector)
    assert policy.stale is not None
    assert said in policy.stale
    write_calibration(recalibrate(policy, traffic, ATTACKS).calibration, policy.file)
    assert PolicyStore(folder, lambda _: heads_of(detector)).get("acme").live.thresholds[0].own


def test_a_budget_below_what_the_bundle_knows_is_reached_in_two_steps(folder):
    traffic = texts(np.linspace(0.001, 0.75, 2000))
    found = calibrated(folder, traffic)
    write_policies(folder, {"tenants/acme.yaml": f"calibration: a.json\nrules: [{RULE.replace('0.01', '0.003')}]\n"})
    with pytest.raises(PolicyError, match=r"needs 1,000 harmless texts .* no rate below 0.005 is kept"):
        read_tenant(folder, "acme", Said())
    write_calibration(found.calibration, folder / "a.json")
    policy = read_tenant(folder, "acme", Said())
    assert (policy.stale, policy.live.thresholds[0].own) == (None, True)
    (move,) = recalibrate(policy, traffic, ATTACKS).moves
    assert move.before == move.after
    assert move.matched_after == 5  # The lowest rate that is kept is 0.0025.


def test_urls_may_name_the_hosts_that_the_default_policy_allows(folder):
    write_policies(
        folder,
        {
            "default.yaml": f"allowed_hosts: [hooks.example.com]\nrules: [{RULE}]\n",
            "tenants/acme.yaml": """
                extends: default
                escalations: {ask: {kind: webhook, url: "https://hooks.example.com/x", secret: KEY}}
            """,
        },
    )
    assert read_tenant(folder, "acme", Said()).live.policy.escalations.keys() == {"ask"}


def test_a_policy_that_is_wrong_is_not_taken_for_a_stale_calibration(folder):
    (folder / "tenants" / "acme.yaml").write_text("extends: default\nmoed: shadow\n")
    with pytest.raises(PolicyError, match=r"acme.yaml:2:1: moed"):
        read_tenant(folder, "acme", Said())
    write_policies(folder, {"default.yaml": f"rules:\n  - {RULE.replace('0.01', '0.0001')}\n"})
    (folder / "tenants" / "acme.yaml").write_text("extends: default\n")
    with pytest.raises(PolicyError, match="needs 30,000 harmless texts"):
        read_tenant(folder, "acme", Said())


def test_a_tenants_own_detector_reads_its_traffic(folder, embedded):
    shutil.copytree(EMBEDDED, folder / "tenants" / "big" / "bundle")
    rule = "{name: r, stages: [input], head: safety, labels: [unsafe], max_fpr: 0.05, action: block}"
    write_policies(
        folder,
        {"tenants/big/policy.yaml": f"detector: {{bundle: bundle, id: {embedded.detector_id}}}\nrules: [{rule}]\n"},
    )
    guards_own = Said()
    policy = read_tenant(folder, "big", guards_own)
    assert policy.heads.detector_id == embedded.detector_id
    found = recalibrate(policy, texts(np.linspace(0, 1, 60)), [])
    assert found.calibration.detector_id == embedded.detector_id
    assert guards_own.calls == 0


def test_a_file_that_cant_be_written_is_told(folder):
    found = calibrated(folder, texts(np.linspace(0, 0.7, 400)))
    (folder / "calibrations").write_text("in the way")
    with pytest.raises(UnsupportedValueError, match=r"acme\.json: can't be written"):
        write_calibration(found.calibration, folder / "calibrations" / "acme.json")
