"""The application: routers, errors, health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import orjson
import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi

from secmon_dagster import __version__, database
from secmon_dagster.api import agents, audit, drift, packages, problems, runs, security, vecsec
from secmon_dagster.api.transport import Transport
from secmon_dagster.errors import DatabaseUnavailableError, InvalidInputError, SchemaError
from secmon_dagster.settings import get_settings

JSON = "application/json"
# By method and path: a body to send and the answer to it, as the API really gave it.
EXAMPLES = Path(__file__).with_name("examples.json")
# Endpoints block on the database, never on more connections than its pool has; a few more threads
# than that let requests that need none (404, 422) pass by.
THREADS = database.sessions.POOL_SIZE * 2


def create_app() -> FastAPI:
    """The API; also the factory that ``uvicorn --factory`` calls."""
    settings = get_settings()
    app = FastAPI(
        title="secmon",
        version=__version__,
        description="Posture of agent instances, workflows, artifacts, audit and drift. "
        "Every call carries an API key; errors are problem+json (RFC 9457).",
        lifespan=_lifespan,
        docs_url=None,  # these pages would load scripts from another site
        redoc_url=None,
        responses=problems.documented(401, 403, 404, 422, 429, 503),
    )
    routers = [
        security.router,
        agents.router,
        runs.router,
        audit.router,
        drift.router,
        packages.router,
        vecsec.router,
    ]
    for router in routers:
        app.include_router(router)
    problems.install(app, routers)
    _add_health(app)
    _describe(app)
    app.add_middleware(
        Transport,
        max_body_bytes=settings.api_max_body_bytes,
        body_seconds=settings.api_body_seconds,
    )
    return app


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    database.close_pools()


def _add_health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"], responses={401: {}, 403: {}, 404: {}, 422: {}, 429: {}})
    def alive() -> dict[str, str]:
        """Whether this process serves requests."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    def ready(request: Request) -> Response:
        """Whether the database answers and its schema is this code's."""
        pending = database.pending_migrations()
        if pending:
            raise SchemaError(f"Migrations are pending: {', '.join(pending)}")
        return Response('{"status":"ok"}', media_type="application/json")

    @app.exception_handler(psycopg.OperationalError)
    def _lost(request: Request, error: psycopg.OperationalError) -> Response:
        return problems.of_error(request, DatabaseUnavailableError("The database does not answer"))

    @app.exception_handler(psycopg.DataError)
    def _unfit(request: Request, error: psycopg.DataError) -> Response:
        # A value of the right type that PostgreSQL can't hold.
        return problems.of_error(
            request, InvalidInputError(f"A value can't be stored: {error.diag.message_primary}")
        )


def _describe(app: FastAPI) -> None:
    """OpenAPI with the problem schema and the API key, and without FastAPI's own error form."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            parts = document.setdefault("components", {})
            parts.setdefault("schemas", {})["Problem"] = problems.Problem.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                parts["schemas"].pop(unused, None)
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            examples = orjson.loads(EXAMPLES.read_bytes())
            for path, item in document["paths"].items():
                for method, operation in item.items():
                    if path not in ("/healthz", "/readyz"):
                        operation["security"] = [{"key": []}]
                    if "requestBody" in operation:
                        operation["responses"] |= problems.documented("408", "413")
                    if any(
                        one["name"] == "if-none-match" for one in operation.get("parameters", ())
                    ):
                        operation["responses"]["304"] = {"description": "It is what one has"}
                    _exemplify(operation, examples.get(f"{method.upper()} {path}", {}))
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _exemplify(operation: dict[str, Any], example: dict[str, Any]) -> None:
    """Show what a call takes and what a success answers."""
    success = next(one for status, one in operation["responses"].items() if status < "300")
    if "response" in example:
        success.setdefault("content", {}).setdefault(JSON, {})["example"] = example["response"]
    if "request" in example:
        operation["requestBody"]["content"][JSON]["example"] = example["request"]
