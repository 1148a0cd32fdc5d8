"""Artifacts: upload, download through the gate, the history of checks, approvals."""

from __future__ import annotations

import base64
import re
import shutil
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Literal

import anyio.to_thread
import orjson
from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from secmon_dagster.api import problems
from secmon_dagster.api.auth import Approver, Operator, Permission, Reader, authorised
from secmon_dagster.api.byte_ranges import Span, UnsatisfiableError, choose, matches
from secmon_dagster.api.problems import documented
from secmon_dagster.api.schemas import IdempotencyKey, IfNoneMatch, Limit
from secmon_dagster.api.work import Operates, Reads
from secmon_dagster.database import transaction
from secmon_dagster.errors import (
    ApprovalRequiredError,
    ArtifactBlockedError,
    CheckTimeoutError,
    GateBusyError,
    GateError,
    GateMisconfiguredError,
    InvalidInputError,
    NotFoundError,
)
from secmon_dagster.gate import Artifact, Gatekeeper, Outcome, approval, history
from secmon_dagster.gate.artifact import safe_file_name
from secmon_dagster.gate.gatekeeper import Release
from secmon_dagster.gate.sealed import SealedFile
from secmon_dagster.posture.session import Session
from secmon_dagster.settings import get_settings

router = APIRouter(tags=["packages"])

RETRY_SECONDS = "30"
_ID = r"^[^\x00-\x1f\x7f]{1,200}$"
ArtifactId = Annotated[str, Path(pattern=_ID, description="Id of an artifact.")]
ApprovalId = Annotated[str, Path(pattern=_ID, description="Id of an approval.")]

# The documented names of what a refused download says.
_NAMES: dict[type[GateError], tuple[str, str]] = {
    ArtifactBlockedError: ("DownloadBlocked", "Artifact failed security monitoring check"),
    ApprovalRequiredError: ("ApprovalRequired", "Artifact needs the approval of a second person"),
    CheckTimeoutError: ("CheckTimeout", "The security monitoring check did not end in time"),
    GateBusyError: ("GateBusy", "Too many security monitoring checks are under way"),
    GateMisconfiguredError: ("MonitoringError", "The security monitoring check could not be made"),
}


class DecisionIn(BaseModel):
    """What an approver decides."""

    model_config = ConfigDict(extra="forbid", strict=True)

    state: Literal["approved", "denied", "revoked"]


class ApprovalIn(BaseModel):
    """Why an approval is asked for, and for how long it is to hold."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str = Field(default="", max_length=2000, pattern=r"^[^\x00]*$")
    lifetime_hours: float = Field(default=168.0, gt=0, le=8760)


@cache
def gatekeeper() -> Gatekeeper:
    """The gate of this process; it remembers verdicts for an hour."""
    return Gatekeeper()


@router.post("/packages", status_code=201, responses=documented(409, 413))
def upload(
    call: Operates,
    name: Annotated[str, Query(min_length=1, max_length=4096)],
    content: Annotated[bytes, Body(media_type="application/octet-stream")],
    type: Annotated[str, Query(min_length=1, max_length=200)] = "model",
    file_name: Annotated[str, Query(max_length=200)] = "",
    require_approval: bool = False,
    monitoring_script: Annotated[str | None, Query(max_length=1000)] = None,
) -> Response:
    """Store a file as a sensitive artifact. It is checked when it is first asked for.

    Only an administrator may name the scripts that check it, instead of those of the policy.
    """
    if monitoring_script is not None:
        authorised(call.request, Permission.ADMINISTER)

    def store() -> dict[str, Any]:
        identity = uuid.uuid4().hex
        folder = get_settings().home / "artifacts" / "uploads" / identity
        folder.mkdir(parents=True, mode=0o700)
        try:
            path = folder / safe_file_name(file_name or name)
            path.write_bytes(content)
            made = gatekeeper().register(
                path,
                name,
                type,
                call.who.user_id,
                artifact_id=identity,
                require_approval=require_approval,
                monitoring_script=monitoring_script,
            )
        except BaseException:
            shutil.rmtree(folder)
            raise
        return _artifact(made)

    return call.do(store, body=content, status=201, location=lambda made: f"/packages/{made['id']}")


BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get(
    "/packages/{artifact_id}",
    responses={
        200: {"description": "The file, or the record of what has none here", "content": BYTES},
        206: {"description": "The part asked for", "content": BYTES},
        **documented(412, 416, 500, 503),
    },
)
def download(
    request: Request,
    artifact_id: ArtifactId,
    who: Reader,
    if_none_match: IfNoneMatch = None,
    if_match: Annotated[str | None, Header()] = None,
    if_range: Annotated[str | None, Header()] = None,
    range: Annotated[str | None, Header()] = None,
) -> Response:
    """The artifact's bytes, if the gate lets them pass.

    The gate comes before conditions and ranges: a revoked file is 403 for who has it already.
    """
    try:
        release = gatekeeper().download(artifact_id, user_id=who.user_id)
    except GateError as refused:
        return _refused(request, refused, artifact_id)
    if release.file is None:
        return _json(_artifact(release.artifact), 200, _gate_headers(release))
    file = release.file
    etag = f'"sha256-{file.sha256}"'
    headers = {
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{_base64(file.sha256)}:",
        "Cache-Control": "private, no-cache",
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{_file_name(release.artifact)}"',
        **_gate_headers(release),
    }
    if if_match is not None and not matches(if_match, etag, weak=False):
        file.close()
        return problems.respond(request, 412, "precondition-failed", "The file has other bytes")
    if if_none_match is not None and matches(if_none_match, etag, weak=True):
        file.close()
        return Response(status_code=304, headers=headers)
    honoured = range if if_range is None or if_range == etag else None
    try:
        span = choose(honoured, file.size)
    except UnsatisfiableError:
        file.close()
        return problems.respond(
            request, 416, "range-not-satisfiable", f"The file has {file.size} bytes",
            headers={"Content-Range": f"bytes */{file.size}"},
        )  # fmt: skip
    try:
        return _stream(file, span, headers)
    except GateError as refused:
        file.close()
        return _refused(request, refused, artifact_id)


@router.get("/packages/{artifact_id}/history")
def checks(artifact_id: ArtifactId, call: Reads, limit: Limit = 20) -> Response:
    """The checks of an artifact, the newest first."""

    def found(_: Session) -> list[dict[str, Any]]:
        gatekeeper().find(artifact_id)
        verdicts = history.history(artifact_id=artifact_id, limit=limit)
        return [verdict.to_dict() for verdict in verdicts]

    return call.read(found)


@router.get("/packages/{artifact_id}/history/{check_id}")
def check(artifact_id: ArtifactId, check_id: ApprovalId, call: Reads) -> Response:
    """One check."""

    def verdict(_: Session) -> dict[str, Any]:
        found = history.find_check(check_id)
        if found is None or found.result.artifact_id != artifact_id:
            raise NotFoundError(f"artifact {artifact_id!r} has no check {check_id!r}")
        return found.to_dict()

    return call.read(verdict)


@router.post("/packages/{artifact_id}/approvals", status_code=201, responses=documented(409))
def request_approval(
    artifact_id: ArtifactId,
    who: Operator,
    body: ApprovalIn | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Ask for a second person's word on the artifact as it is now."""
    asked = body or ApprovalIn()
    made = gatekeeper().request_approval(
        artifact_id,
        who.user_id,
        reason=asked.reason,
        lifetime=timedelta(hours=asked.lifetime_hours),
        idempotency_key=None if idempotency_key is None else f"{who.user_id}:{idempotency_key}",
    )
    return _approval(made, 201)


@router.get("/packages/{artifact_id}/approvals")
def approvals(artifact_id: ArtifactId, call: Reads, limit: Limit = 100) -> Response:
    """The approvals of an artifact, the newest first."""

    def found(_: Session) -> list[dict[str, Any]]:
        with transaction() as connection:
            listed = approval.listed(connection, artifact_id=artifact_id, limit=limit)
        return [one.to_dict() for one in listed]

    return call.read(found)


@router.get("/approvals/{approval_id}")
def one_approval(approval_id: ApprovalId, who: Reader) -> Response:
    """One approval; its ETag is what a decision names in If-Match."""
    with transaction() as connection:
        approval.expire(connection)
        return _approval(approval.find(connection, approval_id), 200)


@router.post("/approvals/{approval_id}/decision", responses=documented(409, 412))
def decide(
    request: Request,
    approval_id: ApprovalId,
    who: Approver,
    body: DecisionIn,
    if_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Approve, deny or revoke. The requester and the uploader can't approve."""
    version = None
    if if_match is not None:
        found = re.fullmatch(r'"v(\d{1,9})"', if_match.strip())
        if found is None:
            raise InvalidInputError.of("If-Match", if_match[:50], 'an approval\'s ETag, as "v1"')
        version = int(found.group(1))
        with transaction() as connection:
            if approval.find(connection, approval_id).version != version:
                return problems.respond(
                    request, 412, "precondition-failed", "The approval was changed meanwhile"
                )
    made = gatekeeper().decide(
        approval_id, approval.State(body.state), who.user_id, expected_version=version
    )
    return _approval(made, 200)


# --- answers --------------------------------------------------------------------------------------


def _refused(request: Request, refused: GateError, artifact_id: str) -> Response:
    """The documented body beside the problem's members. A script's stderr stays here."""
    name, message = _NAMES.get(type(refused), ("GateError", "The gate refused"))
    verdict = refused.context.get("verdict")
    monitoring: dict[str, Any] = {"action": "blocked", "findings": []}
    headers = {}
    if verdict is not None:
        monitoring = verdict.to_dict()
        headers["Link"] = f'</packages/{artifact_id}/history/{verdict.check_id}>; rel="describedby"'
    members: dict[str, Any] = {"error": name, "message": message, "monitoring": monitoring}
    if refused.status == 503:
        headers["Retry-After"] = RETRY_SECONDS
    if isinstance(refused, ApprovalRequiredError):
        members["approval_url"] = f"/packages/{artifact_id}/approvals"
        headers["Link"] = f'</packages/{artifact_id}/approvals>; rel="related"'
    detail = message if refused.status >= 500 else refused.message
    return problems.respond(
        request, refused.status, refused.problem_type, detail, headers=headers, **members
    )


def _gate_headers(release: Release) -> dict[str, str]:
    verdict = release.verdict
    if verdict is None:
        return {}
    headers = {"X-Gate-Verdict": str(verdict.outcome)}
    if verdict.outcome is Outcome.WARN:
        address = f"/packages/{release.artifact.id}/history/{verdict.check_id}"
        headers["Link"] = f'<{address}>; rel="describedby"'
    return headers


def _stream(file: SealedFile, span: Span | None, headers: dict[str, str]) -> Response:
    """The bytes, each piece proved just before it is sent.

    Raises:
        ArtifactBlockedError: the first piece is not what was hashed. At a later one the connection
            ends early, which ``Content-Length`` tells the client.
    """
    first, last = (0, file.size - 1) if span is None else span
    if span is not None:
        headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
    headers["Content-Length"] = str(last - first + 1)
    proved = file.pieces(first, last)
    opening = next(proved, b"")

    async def pieces() -> AsyncIterator[bytes]:
        piece: bytes | None = opening
        with file:  # closed here, or by whoever forgets the generator
            while piece is not None:
                yield piece
                piece = await anyio.to_thread.run_sync(next, proved, None)

    return StreamingResponse(
        pieces(),
        200 if span is None else 206,
        headers=headers,
        media_type="application/octet-stream",
    )


def _artifact(artifact: Artifact) -> dict[str, Any]:
    return {
        "id": artifact.id,
        "name": artifact.name,
        "type": artifact.type,
        "url": artifact.url,
        "size_bytes": artifact.size_bytes,
        "sha256": artifact.sha256,
        "uploaded_by": artifact.uploaded_by,
        "is_sensitive": artifact.is_sensitive,
        "require_approval": artifact.require_approval,
    }


def _approval(made: approval.Approval, status: int) -> Response:
    headers = {"ETag": f'"v{made.version}"', "Location": f"/approvals/{made.id}"}
    return _json(made.to_dict(), status, headers)


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(value, default=str),
        status,
        media_type="application/json",
        headers={"Cache-Control": "private, no-cache", **(headers or {})},
    )


def _file_name(artifact: Artifact) -> str:
    return (
        safe_file_name(artifact.path.name if artifact.path else artifact.name)
        .encode("ascii", "replace")
        .decode()
        .replace("?", "_")
    )


def _base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()
