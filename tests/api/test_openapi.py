from __future__ import annotations

import contextlib
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from referencing import Registry
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from secmon_dagster.api.app import create_app
from secmon_dagster.settings import get_settings

pytestmark = pytest.mark.usefixtures("detector_in_use")

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@pytest.fixture
def schema(database, monkeypatch):
    monkeypatch.setenv("SECMON_API_REQUESTS_PER_MINUTE", "10000")
    get_settings.cache_clear()
    return schemathesis.openapi.from_asgi("/openapi.json", create_app())


def explore(schema, headers, examples: int) -> None:
    """Ask every operation for ``examples`` answers to what fits its schemas and to what doesn't."""
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in GenerationMode:

            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            def probe(case):
                case.call_and_validate(headers=headers, checks=CHECKS)

            # Nothing can be wrong about a call that takes nothing.
            with contextlib.suppress(Unsatisfiable, SkipTest):
                given(case=operation.as_strategy(generation_mode=mode))(probe)()


def test_every_endpoint_has_examples_and_they_are_what_its_schemas_say(client):
    document = client.get("/openapi.json").json()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            shown = [body for status, body in operation["responses"].items() if status < "300"]
            if "requestBody" in operation and method == "post":
                shown.append(operation["requestBody"])
            for body in shown:
                media = body["content"].get("application/json")
                if media is None:  # an upload's bytes
                    continue
                assert "example" in media, (method, path)
                schema = {**media.get("schema", {}), "components": document["components"]}
                Draft202012Validator(schema, registry=Registry()).validate(media["example"])


def test_no_input_brings_a_server_error_or_an_answer_that_is_not_documented(schema, key):
    explore(schema, key("admin", "ada"), examples=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("role", ["viewer", "operator", "approver", "admin"])
def test_many_inputs_bring_none_either_whoever_sends_them(schema, key, role):
    explore(schema, key(role, "ada"), examples=200 if role == "admin" else 40)
