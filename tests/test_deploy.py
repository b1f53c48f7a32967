"""What deploys the server is what its tools read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT

KUBERNETES = "1.33"


@pytest.mark.parametrize("file", sorted((ROOT / "deploy").rglob("*.yaml")), ids=lambda file: file.name)
def test_what_deploys_it_is_yaml(file):
    assert list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def test_the_container_runs_without_root_and_fetches_nothing():
    lines = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER 10001:10001"]
    assert any("HF_HUB_OFFLINE=1" in line for line in lines)
    assert not any(line.startswith("ADD ") for line in lines)


def test_hadolint_finds_nothing_in_the_container():
    found = subprocess.run(
        [Path(sys.executable).parent / "hadolint", ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True
    )
    assert (found.returncode, found.stdout) == (0, "")


def manifests(name):
    return list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("manifest", manifests("lec-guard.yaml"), ids=lambda manifest: manifest["kind"])
def test_kubernetes_knows_every_field(manifest):
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_kubernetes_knows_every_field_of_the_pods_of_ray():
    cluster = manifests("ray.yaml")[0]["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} <= {one["name"] for one in pod["spec"]["containers"][0]["env"]}


def test_the_dashboard_asks_for_numbers_that_there_are(api_metrics):
    text = (ROOT / "deploy" / "grafana" / "lec-guard.json").read_text(encoding="utf-8")
    asked = set(re.findall(r"lec_guard_[a-z_]+", text)) - {"lec_guard_check_seconds_bucket"}
    assert asked
    assert {name.removesuffix("_total") for name in asked} <= api_metrics


@pytest.fixture
def api_metrics():
    from prometheus_client import CollectorRegistry

    from lec_guard.observe.prometheus import PrometheusSink

    registry = CollectorRegistry()
    PrometheusSink(registry)
    return {metric.name for metric in registry.collect()}
