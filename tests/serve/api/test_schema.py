"""The API against its own OpenAPI document: whatever may be sent, the answers are those that it says."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from lec_guard.testing import KeywordDetector
from tests.conftest import POLICIES, write_policies
from tests.serve.api.made import EXACT, Site

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    detector = KeywordDetector(
        {"injection": {"injection": ["attack"]}, "safety": {"unsafe": ["poison"], "rude": ["darn"]}}
    )
    made = Site(folder, write_policies(folder / "policies", POLICIES), detector)
    yield made
    made.close()


OPERATIONS = (
    ("post", "/v1/check"),
    ("post", "/v1/scores"),
    ("get", "/v1/detector"),
    ("post", "/v1/moderations"),
    ("post", "/beta/litellm_basic_guardrail_api"),
    ("get", "/healthz"),
    ("get", "/healthz/ready"),
    ("get", "/healthz/live"),
    ("get", "/metrics"),
)


def test_every_route_is_in_the_document(site):
    document = site.app.openapi()
    found = {(method, path) for path, own in document["paths"].items() for method in own}
    assert found == set(OPERATIONS)
    for method, path in OPERATIONS:
        if method == "post":
            body = document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            assert document["components"]["schemas"][body.rpartition("/")[2]]["examples"]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_those_of_the_document(site, method, path):
    operation = schemathesis.openapi.from_asgi("/openapi.json", site.app)[path][method]

    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy())
    def conforms(case):
        case.call_and_validate(headers={"Authorization": f"Bearer {EXACT}"}, checks=CHECKS)

    conforms()
