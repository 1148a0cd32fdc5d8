from __future__ import annotations

import contextlib
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import booleans
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


# What the paths and bodies of the API call the things that the fixture ``ids`` has made.
EXISTING = {
    "instance_id": "i",
    "layer_id": "l",
    "workflow_id": "w",
    "parent_id": "w",
    "child_workflow_id": "c",
    "execution_id": "e",
    "run_id": "run",
    "entry_id": "a",
    "model_id": "m",
    "artifact_id": "file",
    "check_id": "check",
    "approval_id": "approval",
}


@pytest.fixture
def schema(database, monkeypatch):
    monkeypatch.setenv("SECMON_API_REQUESTS_PER_MINUTE", "10000")
    get_settings.cache_clear()
    return schemathesis.openapi.from_asgi("/openapi.json", create_app())


def explore(schema, headers, ids, examples: int) -> None:
    """Ask every operation for ``examples`` answers to what fits its schemas and as many to what
    doesn't; about half of them name something that exists, else nearly all would be 404."""
    existing = {name: ids[short] for name, short in EXISTING.items()}
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in GenerationMode:

            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],  # shrinking a find takes hundreds of further calls
            )
            def probe(case, name_existing):
                if name_existing:
                    for given_by_name in (case.path_parameters, case.body):
                        if isinstance(given_by_name, dict):
                            given_by_name |= {
                                name: existing[name] for name in given_by_name.keys() & existing
                            }
                answer = case.call_and_validate(headers=headers, checks=CHECKS)
                if case.method == "GET" and "etag" in answer.headers:
                    known = headers | {"If-None-Match": answer.headers["etag"][0]}
                    case.call_and_validate(headers=known, checks=CHECKS)

            # Nothing can be wrong about a call that takes nothing.
            with contextlib.suppress(Unsatisfiable, SkipTest):
                cases = operation.as_strategy(generation_mode=mode)
                given(case=cases, name_existing=booleans())(probe)()


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


def test_no_input_brings_a_server_error_or_an_answer_that_is_not_documented(schema, key, ids):
    explore(schema, key("admin", "ada"), ids, examples=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("role", ["viewer", "operator", "approver", "admin"])
def test_many_inputs_bring_none_either_whoever_sends_them(schema, key, ids, role):
    # The others are refused most of it before anything is read.
    explore(schema, key(role, "ada"), ids, examples=60 if role == "admin" else 10)
