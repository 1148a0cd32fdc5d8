from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from secmon_dagster.api.app import create_app
from secmon_dagster.settings import get_settings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@pytest.fixture
def schema(key, monkeypatch):
    monkeypatch.setenv("SECMON_API_REQUESTS_PER_MINUTE", "10000")
    get_settings.cache_clear()
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app())
    return schema, key("admin", "ada")


def explore(schema, headers, examples: int) -> None:
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def probe(case):
            case.call_and_validate(headers=headers, checks=CHECKS)

        given(case=operation.as_strategy())(probe)()


def test_no_input_brings_a_server_error_or_an_answer_that_is_not_documented(schema):
    explore(*schema, examples=4)


@pytest.mark.slow
def test_many_inputs_bring_no_server_error_either(schema):
    explore(*schema, examples=300)
