"""JSON Schemas that tenants declare for what their agents send."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError as BrokenSchema
from jsonschema.exceptions import best_match
from referencing import Registry

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.posture.scanning import redact

# A regular expression from outside can hang whoever evaluates it, and a reference to another
# document would make this process fetch it.
_REFUSED = {"pattern", "patternProperties"}


def require_schema(field: str, schema: object) -> None:
    """Check that ``schema`` may be declared.

    Raises:
        InvalidInputError: it is no JSON Schema (2020-12), refers to another document, or holds a
            regular expression.
    """
    if not isinstance(schema, Mapping):
        raise InvalidInputError.of(field, schema, "a JSON Schema object")
    try:
        Draft202012Validator.check_schema(schema)
    except BrokenSchema as broken:
        raise InvalidInputError(
            f"{field} is no JSON Schema (2020-12): {broken.message[:200]}", field=field
        ) from None
    _walk(field, schema)


def _walk(field: str, node: Any) -> None:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in _REFUSED and not (key == "pattern" and isinstance(value, Mapping)):
                raise InvalidInputError(
                    f"{field} uses {key!r}; a pattern from outside can hang the server",
                    hint="Use enum, const, format or maxLength instead.",
                    field=field,
                )
            if key in ("$ref", "$dynamicRef") and not str(value).startswith("#"):
                raise InvalidInputError(
                    f"{field} refers to {value!r}; only references within the schema (#…) are "
                    "followed",
                    field=field,
                )
            _walk(field, value)
    elif isinstance(node, list):
        for item in node:
            _walk(field, item)


def violation_of(schema: Mapping[str, Any], value: object) -> str | None:
    """Why ``value`` breaks ``schema``, in one sentence without the value; None when it doesn't."""
    error = best_match(
        _validator(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)).iter_errors(value)
    )
    if error is None:
        return None
    # Names within the value are the sender's, too.
    where = redact("/".join(str(part) for part in error.absolute_path)) or "the object itself"
    # The message may repeat the value, which may be a secret: name the rule instead.
    rule = str(orjson.dumps(error.validator_value, default=str)[:200], errors="replace")
    return f"{where}: {error.validator} must be {rule}"[:500]


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Draft202012Validator:
    # An empty registry: nothing outside the schema is ever fetched.
    return Draft202012Validator(orjson.loads(schema), registry=Registry())
