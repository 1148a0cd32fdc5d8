"""Errors as problem+json (RFC 9457), derived from the exception tree."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from secmon_dagster.api.auth import principal
from secmon_dagster.errors import (
    DatabaseUnavailableError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
    SecmonError,
    UnauthenticatedError,
)

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("secmon.api")

# What may travel from an error's context to the caller; everything else stays here.
_SHOWN = {"field", "allowed", "retry_after", "limit", "reasons", "circle"}


class Problem(BaseModel):
    """The body of every error."""

    type: str = Field(examples=["/problems/not-found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no agent instance '…'"])
    instance: str | None = Field(default=None, examples=["/api/security/instances/x/profile"])
    request_id: str | None = Field(default=None)


def respond(
    request: Request,
    status: int,
    problem_type: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """A problem response."""
    body = {
        "type": f"/problems/{problem_type}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "request_id": getattr(request.state, "request_id", None),
        **members,
    }
    return Response(
        orjson.dumps(body, default=str),
        status,
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def of_error(request: Request, error: SecmonError) -> Response:
    """The response to one of our errors."""
    if error.status >= 500:
        _log.error("%s: %s", type(error).__name__, error.message)
    if isinstance(error, DatabaseUnavailableError):
        # Host, user and path are for the log: /readyz answers everyone.
        error = DatabaseUnavailableError("The database does not answer")
    members = {name: value for name, value in error.context.items() if name in _SHOWN}
    if error.hint is not None:
        members["hint"] = error.hint
    headers = {}
    if isinstance(error, RateLimitedError):
        headers["Retry-After"] = str(error.context.get("retry_after", 60))
    elif error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "5"
    elif isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    return respond(
        request, error.status, error.problem_type, error.message, headers=headers, **members
    )


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Answer every error of ``app`` with a problem.

    Args:
        routers: the routers ``app`` includes; it doesn't show their routes itself.
    """

    @app.exception_handler(SecmonError)
    def _ours(request: Request, error: SecmonError) -> Response:
        return of_error(request, error)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"field": ".".join(str(part) for part in item["loc"]), "message": item["msg"]}
            for item in error.errors()
        ]
        return _unfit(request, errors)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.BAD_REQUEST:
            # JSON that doesn't even decode is as little the input asked for as a wrong field.
            return _unfit(request, [{"field": "body", "message": "is no JSON in UTF-8"}])
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # Starlette names the methods of the first route that matched, not of all of them.
            headers["Allow"] = ", ".join(sorted(_allowed_methods([app.router, *routers], request)))
        if error.status_code == HTTPStatus.NOT_FOUND:
            return respond(
                request, 404, NotFoundError.problem_type, f"Nothing is at {request.url.path}"
            )
        phrase = HTTPStatus(error.status_code).phrase
        return respond(
            request,
            error.status_code,
            phrase.lower().replace(" ", "-"),
            str(error.detail),
            headers=headers,
        )

    @app.exception_handler(Exception)
    def _unexpected(request: Request, error: Exception) -> Response:
        _log.exception("unexpected error", exc_info=error)
        return respond(
            request,
            500,
            SecmonError.problem_type,
            "An unexpected error; the server's log has it under this request_id",
        )


def _unfit(request: Request, errors: Sequence[Mapping[str, str]]) -> Response:
    """The response to input that isn't what the endpoint takes.

    Who may not call at all learns nothing of what a call takes, and every try counts.
    """
    try:
        principal(request)
    except SecmonError as refused:
        return of_error(request, refused)
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
    return respond(
        request, InvalidInputError.status, InvalidInputError.problem_type, detail, errors=errors
    )


def _allowed_methods(routers: Sequence[APIRouter], request: Request) -> set[str]:
    methods: set[str] = set()
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return methods


def documented(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for problems with these statuses."""
    return {
        status: {
            "description": HTTPStatus(int(status)).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
