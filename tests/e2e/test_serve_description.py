"""Whatever the OpenAPI description allows, and much that it does not, gets an answer that it describes."""

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.support import serving

EXAMPLES = 15  # of each operation and kind
OPERATIONS = (
    *("GET /v1/models", "GET /v1/models/{model}", "POST /v1/chat/completions", "POST /v1/segment", "POST /v1/refine"),
    *("GET /healthz", "GET /readyz", "GET /metrics"),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = serving.write_refining_model(tmp_path_factory.mktemp("model"))
    with serving.serving(model, "--max-new-tokens", "16", keys=(serving.KEY,)) as running:
        yield running


@pytest.fixture(scope="module")
def description(server):
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_operation(description, label, mode):
    # Not by schemathesis' own decorator, which reaches into what pytest 9 has no more.
    (operation,) = [one.ok() for one in description.get_all_operations() if one.ok().label == label]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        case.call_and_validate(headers={"Authorization": f"Bearer {serving.KEY}"}, checks=CHECKS)

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # a request without parameters can't be wrong
        assert label.startswith("GET")


def test_these_are_all_operations(description):
    assert {operation.ok().label for operation in description.get_all_operations()} == set(OPERATIONS)


def test_a_key_is_part_of_the_description(server):
    described = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    assert described["paths"]["/v1/segment"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in described["paths"]["/healthz"]["get"]
