"""The decision: register, check, release. Every face of the gate goes through here."""

from __future__ import annotations

import io
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from secmon_dagster import audit
from secmon_dagster.database import transaction
from secmon_dagster.errors import (
    ArtifactBlockedError,
    GateBusyError,
    InvalidInputError,
    NotFoundError,
)
from secmon_dagster.gate import approval, history
from secmon_dagster.gate.artifact import Artifact, Snapshot, artifact_of, check_name, snapshot
from secmon_dagster.gate.decision import blocked, require
from secmon_dagster.gate.policy import Policy, load_policy
from secmon_dagster.gate.runner import run_security_check
from secmon_dagster.gate.sealed import PIECE, SealedFile
from secmon_dagster.gate.verdict import MonitoringResult, Outcome, Verdict, combine
from secmon_dagster.settings import get_settings

_CACHE_SIZE = 4096
_CACHED = (Outcome.ALLOW, Outcome.WARN, Outcome.BLOCK)
# Checks at a time in one process; the next ones wait for as long as a script may run.
SLOTS = 4 * (os.cpu_count() or 1)
_slots = threading.BoundedSemaphore(SLOTS)


@dataclass(frozen=True)
class Release:
    """What may be handed out: the judged bytes, to be closed by who gets them. Without a file the
    artifact only lives at its URL. ``verdict`` is None where none was needed."""

    artifact: Artifact
    verdict: Verdict | None
    file: SealedFile | None = None


class Gatekeeper:
    """Judges artifacts and hands out their bytes.

    Args:
        enqueue: puts audit entries into a transaction; the audit chain's outbox by default.
    """

    def __init__(self, *, enqueue: history.Enqueue = audit.enqueue) -> None:
        self._enqueue = enqueue
        self._cache: OrderedDict[tuple[str, str, str], tuple[float, Verdict]] = OrderedDict()

    # --- register ---------------------------------------------------------------------------------

    def register(
        self,
        path: Path | str,
        name: str,
        type: str,
        uploaded_by: str | None,
        *,
        artifact_id: str | None = None,
        is_sensitive: bool = True,
        require_approval: bool = False,
        monitoring_script: str | None = None,
        url: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Artifact:
        """Hash the file and write its row; the same id again replaces the row (and voids approvals
        if the bytes differ).

        Raises:
            InvalidInputError: name, type or path can't be.
            NotFoundError: no file is at ``path``.
        """
        check_name("name", name)
        check_name("type", type)
        identity = check_name("artifact_id", artifact_id or uuid4().hex)
        with self._snapshot(Path(path)) as taken, transaction(user_id=uploaded_by) as connection:
            row = connection.cursor(row_factory=dict_row).execute(
                """
                INSERT INTO artifacts (id, name, type, url, path, size_bytes, sha256, uploaded_by,
                  is_sensitive, monitoring_script, require_approval, metadata)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                ON CONFLICT (id) DO UPDATE SET
                  name = EXCLUDED.name, type = EXCLUDED.type, url = EXCLUDED.url,
                  path = EXCLUDED.path, size_bytes = EXCLUDED.size_bytes,
                  sha256 = EXCLUDED.sha256, uploaded_by = EXCLUDED.uploaded_by,
                  is_sensitive = EXCLUDED.is_sensitive,
                  monitoring_script = EXCLUDED.monitoring_script,
                  require_approval = EXCLUDED.require_approval, metadata = EXCLUDED.metadata
                RETURNING *
                """,
                (
                    identity, name, type, url, str(Path(path).absolute()), taken.size, taken.sha256,
                    uploaded_by, is_sensitive, monitoring_script, require_approval,
                    Jsonb(metadata or {}),
                ),
            ).fetchone()  # fmt: skip
            assert row is not None
            seen = {"sha256": taken.sha256, "size_bytes": taken.size, "name": name}
            self._audit(connection, "artifact.registered", uploaded_by, identity, seen)
        return artifact_of(row)

    def find(self, artifact_id: str) -> Artifact:
        """The artifact.

        Raises:
            NotFoundError: there is none.
        """
        with transaction() as connection:
            return self._find(connection, artifact_id)

    # --- check ------------------------------------------------------------------------------------

    def check(
        self,
        artifact_id: str,
        *,
        user_id: str | None = None,
        run_id: str | None = None,
        fresh: bool = False,
    ) -> Verdict:
        """Judge the artifact's bytes and write the verdict: one row and one audit entry.

        A verdict of the last hour on the same bytes, scripts and policy is reused unless ``fresh``.

        Raises:
            NotFoundError: no such artifact, or its file is gone.
            InvalidInputError: its path is no regular file.
            DatabaseError: nothing was written, and nothing may be released.
        """
        with transaction() as connection:
            artifact = self._find(connection, artifact_id)
            policy = load_policy(connection)
        with self._bytes(artifact) as taken:
            return self._judge(artifact, policy, taken, user_id, run_id, fresh)

    def _judge(
        self,
        artifact: Artifact,
        policy: Policy,
        taken: Snapshot | None,
        user_id: str | None,
        run_id: str | None,
        fresh: bool,
    ) -> Verdict:
        sha256 = taken.sha256 if taken else None
        digest = policy.digest(artifact)
        key = (artifact.id, sha256 or "", digest)
        changed = taken is not None and artifact.sha256 not in (None, sha256)
        cached = None if fresh or changed else self._cached(key)
        if changed:
            message = f"the file has SHA-256 {sha256}, {artifact.sha256} was registered"
            result = blocked(artifact, "bytes-changed", message)
        elif cached is not None:
            result = replace(cached.result, execution_duration_ms=0.0)
        else:
            result = self._run(artifact, policy, taken)
        with transaction(user_id=user_id) as connection:
            overruled = cached is not None and not history.still_holds(connection, cached)
            if not overruled:
                if taken is not None and artifact.sha256 is None:
                    connection.execute(
                        "UPDATE artifacts SET sha256 = %s, size_bytes = %s "
                        "WHERE id = %s AND sha256 IS NULL",
                        (sha256, taken.size, artifact.id),
                    )
                verdict = history.save_monitoring_result(
                    result,
                    user_id=user_id,
                    run_id=run_id,
                    sha256=sha256,
                    policy_digest=digest,
                    cached_from=None if cached is None else cached.check_id,
                    enqueue=self._enqueue,
                    connection=connection,
                )
        if overruled:  # another process has judged since, and otherwise
            return self._judge(artifact, policy, taken, user_id, run_id, fresh=True)
        by_scripts = result.script_digest != ""
        if cached is None and by_scripts and result.outcome in _CACHED:
            self._cache[key] = (time.monotonic(), verdict)
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return verdict

    def _run(self, artifact: Artifact, policy: Policy, taken: Snapshot | None) -> MonitoringResult:
        if not _slots.acquire(timeout=policy.timeout):
            raise GateBusyError(
                f"{SLOTS} checks are under way", artifact_id=artifact.id, retry_after=5
            )
        try:
            result = self._run_scripts(artifact, policy, taken)
            if taken is not None:
                taken.prove()
        except ArtifactBlockedError as changed:
            return blocked(artifact, "copy-changed", changed.message)
        finally:
            _slots.release()
        return result

    def _run_scripts(
        self, artifact: Artifact, policy: Policy, taken: Snapshot | None
    ) -> MonitoringResult:
        def run(script: str) -> MonitoringResult:
            return run_security_check(
                artifact.id,
                artifact.name,
                artifact.type,
                script_name=script,
                size=taken.size if taken else artifact.size_bytes,
                path=taken.path if taken else None,
                sha256=taken.sha256 if taken else None,
                url=artifact.url,
                config=policy.config,
                timeout=policy.timeout,
                max_output=policy.max_output,
            )

        scripts = policy.scripts_for(artifact)
        with ThreadPoolExecutor(len(scripts)) as threads:
            return combine(list(threads.map(run, scripts)))

    def _cached(self, key: tuple[str, str, str]) -> Verdict | None:
        found = self._cache.get(key)
        if found is None or time.monotonic() - found[0] >= get_settings().gate_cache_seconds:
            return None
        return found[1]

    # --- release ----------------------------------------------------------------------------------

    def open_released(self, artifact_id: str, *, user_id: str | None = None) -> BinaryIO:
        """The artifact's bytes, if the newest verdict on exactly these bytes lets them pass.

        The file is copied and hashed now, the verdict looked up for that hash under the policy in
        force, and what is returned is the copy: it yields the bytes that were hashed, or raises.

        Raises:
            ArtifactBlockedError: the verdict blocks, there is none, the bytes are not those that
                were registered, or the sandbox was weaker than demanded.
            ApprovalRequiredError: nobody approved these bytes.
            CheckTimeoutError, GateMisconfiguredError: the check could not be made.
            NotFoundError: no such artifact or file.
        """
        with transaction(user_id=user_id) as connection:
            artifact = self._find(connection, artifact_id)
            policy = load_policy(connection)
        if artifact.path is None:
            raise NotFoundError(f"artifact {artifact_id!r} has no file", artifact_id=artifact_id)
        with self._snapshot(artifact.path) as taken:
            if artifact.sha256 not in (None, taken.sha256):
                raise ArtifactBlockedError(
                    f"artifact {artifact_id!r} has SHA-256 {taken.sha256} on disk, "
                    f"{artifact.sha256} was registered",
                    hint="register the new bytes; they need a check of their own",
                    artifact_id=artifact_id,
                )
            with transaction(user_id=user_id) as connection:
                digest = policy.digest(artifact)
                verdict = history.latest_verdict(connection, artifact.id, taken.sha256, digest)
                require(connection, artifact, verdict)
            return io.BufferedReader(taken.open(), PIECE)

    def download(self, artifact_id: str, *, user_id: str | None = None) -> Release:
        """Check and release in one go, on one copy of the bytes: what an endpoint serves.

        An artifact that is not sensitive is not checked; its bytes still have to be those that
        were registered.

        Raises:
            See :meth:`check` and :meth:`open_released`.
        """
        with transaction(user_id=user_id) as connection:
            artifact = self._find(connection, artifact_id)
            policy = load_policy(connection)
        with self._bytes(artifact) as taken:
            verdict = None
            changed = taken is not None and artifact.sha256 not in (None, taken.sha256)
            if artifact.is_sensitive or artifact.require_approval or changed:
                verdict = self._judge(artifact, policy, taken, user_id, None, False)
                with transaction(user_id=user_id) as connection:
                    require(connection, artifact, verdict)
            return Release(artifact, verdict, taken.open() if taken else None)

    # --- approve ----------------------------------------------------------------------------------

    def request_approval(
        self,
        artifact_id: str,
        requester: str,
        *,
        reason: str = "",
        lifetime: timedelta = approval.DEFAULT_LIFETIME,
        idempotency_key: str | None = None,
    ) -> approval.Approval:
        """Ask for a second person's word on the artifact as it is now.

        Raises:
            NotFoundError: no such artifact, or it has no bytes yet to approve.
        """
        with transaction(user_id=requester) as connection:
            artifact = self._find(connection, artifact_id)
            if artifact.sha256 is None:
                raise NotFoundError(f"artifact {artifact_id!r} has no known bytes to approve")
            made = approval.request(
                connection,
                artifact_id=artifact.id,
                sha256=artifact.sha256,
                policy_digest=load_policy(connection).digest(artifact),
                requester=requester,
                reason=reason,
                lifetime=lifetime,
                idempotency_key=idempotency_key,
            )
            self._audit(connection, "approval.requested", requester, artifact.id,
                        {"approval_id": made.id, "sha256": made.sha256})  # fmt: skip
        return made

    def decide(
        self,
        approval_id: str,
        state: approval.State,
        decided_by: str,
        *,
        expected_version: int | None = None,
    ) -> approval.Approval:
        """Approve, deny or revoke; the decision and its audit entry, or neither.

        Raises:
            NotFoundError, PermissionDeniedError, ConflictError: see :func:`approval.decide`.
        """
        with transaction(user_id=decided_by) as connection:
            made = approval.decide(
                connection, approval_id, state, decided_by=decided_by,
                expected_version=expected_version,
            )  # fmt: skip
            self._audit(connection, f"approval.{state}", decided_by, made.artifact_id,
                        {"approval_id": made.id, "sha256": made.sha256})  # fmt: skip
        return made

    # --- shared -----------------------------------------------------------------------------------

    @contextmanager
    def _bytes(self, artifact: Artifact) -> Iterator[Snapshot | None]:
        """A snapshot of the artifact's file, None for one that only lives at a URL."""
        if artifact.path is None:
            yield None
            return
        with self._snapshot(artifact.path) as taken:
            yield taken

    def _snapshot(self, path: Path) -> AbstractContextManager[Snapshot]:
        settings = get_settings()
        return snapshot(path, settings.home / "gate", max_bytes=settings.gate_max_bytes)

    def _find(self, connection: psycopg.Connection[Any], artifact_id: str) -> Artifact:
        if "\0" in artifact_id:
            raise InvalidInputError.of("artifact_id", artifact_id, "text without NUL")
        row = (
            connection.cursor(row_factory=dict_row)
            .execute("SELECT * FROM artifacts WHERE id = %s", (artifact_id,))
            .fetchone()
        )
        if row is None:
            raise NotFoundError(f"no artifact has id {artifact_id!r}", artifact_id=artifact_id)
        return artifact_of(row)

    def _audit(
        self,
        connection: psycopg.Connection[Any],
        action: str,
        actor: str | None,
        artifact_id: str,
        data: dict[str, Any],
    ) -> None:
        self._enqueue(
            connection,
            action=action,
            actor=actor or "gate",
            resource_type="artifact",
            resource_id=artifact_id,
            data=data,
        )
