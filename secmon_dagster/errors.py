"""The exception tree.

::

    SecmonError
    ├── InvalidInputError         what was asked can't be: names field, value, allowed range
    │   ├── SettingsError         an environment variable or .env line
    │   └── InvalidLimitsError    a limit declaration
    ├── NotFoundError             no such thing, or none that the caller may see
    ├── ConflictError             the thing exists in another state than the request supposes
    ├── PermissionDeniedError     the caller may not
    ├── UnauthenticatedError      nobody known is calling
    ├── RateLimitedError          too many requests in a minute
    ├── DatabaseError
    │   ├── DatabaseUnavailableError
    │   └── SchemaError           missing, older or newer than this code
    ├── AuditError
    │   ├── EntryRefusedError     an entry that can't be encoded or is too large
    │   ├── ChainTamperedError    verification found a change
    │   └── CheckpointError       a signer or a witness refused
    ├── LimitsError
    │   ├── LimitExceededError
    │   └── EnforcementUnavailableError   this machine can't apply what was demanded
    ├── GateError
    │   ├── ArtifactBlockedError
    │   ├── ApprovalRequiredError
    │   ├── CheckTimeoutError
    │   ├── GateBusyError
    │   └── GateMisconfiguredError
    ├── DriftError
    └── ModelDefinitionError      a model's YAML, data or estimator is wrong

Each class fixes its exit code for the command line and its status and problem type (RFC 9457) for
the API, so that both faces derive their answers from here and nowhere else.
"""

from __future__ import annotations

from typing import Any, ClassVar


class SecmonError(Exception):
    """Base of all errors this project raises on purpose.

    ``str(error)`` is one sentence for the person at the terminal: what was asked, what was found,
    what is allowed. ``hint`` is what to do next, where there is something to do.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500
    problem_type: ClassVar[str] = "internal-error"

    def __init__(self, message: str, *, hint: str | None = None, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = context

    def diagnostics(self) -> str:
        """The message and, on a second line, the hint."""
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class InvalidInputError(SecmonError):
    """A value outside what is allowed."""

    exit_code = 2
    status = 422
    problem_type = "invalid-input"

    @classmethod
    def of(
        cls, field: str, value: object, allowed: str, *, hint: str | None = None
    ) -> InvalidInputError:
        """The usual sentence: ``memory is -5; allowed: 32 MB to 32768 MB``."""
        return cls(
            f"{field} is {value!r}; allowed: {allowed}",
            hint=hint,
            field=field,
            value=value,
            allowed=allowed,
        )


class SettingsError(InvalidInputError):
    """An environment variable or a line of ``.env`` is wrong."""

    problem_type = "invalid-settings"


class InvalidLimitsError(InvalidInputError):
    """A resource-limit declaration is wrong."""

    problem_type = "invalid-limits"


class NotFoundError(SecmonError):
    """No such thing, or none the caller may know of."""

    status = 404
    problem_type = "not-found"


class ConflictError(SecmonError):
    """The thing is in another state than the request supposes."""

    status = 409
    problem_type = "conflict"


class PermissionDeniedError(SecmonError):
    """The caller is known and may not."""

    status = 403
    problem_type = "permission-denied"


class UnauthenticatedError(SecmonError):
    """The caller shows no credential that is valid now."""

    status = 401
    problem_type = "unauthenticated"


class RateLimitedError(SecmonError):
    """Too many requests in a minute; ``context['retry_after']`` says how many seconds to wait."""

    status = 429
    problem_type = "rate-limited"


class DatabaseError(SecmonError):
    """Something about PostgreSQL."""

    exit_code = 3
    status = 503
    problem_type = "database-error"


class DatabaseUnavailableError(DatabaseError):
    """No connection to PostgreSQL."""

    problem_type = "database-unavailable"


class SchemaError(DatabaseError):
    """The schema is missing, older or newer than this code."""

    problem_type = "schema-mismatch"


class AuditError(SecmonError):
    """Something about the audit chain."""

    problem_type = "audit-error"


class EntryRefusedError(AuditError, InvalidInputError):
    """An entry that can't be encoded, is too large, or lacks a field."""

    exit_code = 2
    status = 422
    problem_type = "entry-refused"


class ChainTamperedError(AuditError):
    """Verification found a change."""

    problem_type = "chain-tampered"


class CheckpointError(AuditError):
    """A signer or a witness refused, or a checkpoint does not verify."""

    problem_type = "checkpoint-refused"


class LimitsError(SecmonError):
    """Something about resource limits."""

    problem_type = "limits-error"


class LimitExceededError(LimitsError):
    """Work was ended at its limit."""

    problem_type = "limit-exceeded"


class EnforcementUnavailableError(LimitsError):
    """This machine can't apply a limit that was demanded."""

    exit_code = 3
    problem_type = "enforcement-unavailable"


class GateError(SecmonError):
    """Something about the gate."""

    problem_type = "gate-error"


class ArtifactBlockedError(GateError):
    """A security check blocked the artifact."""

    status = 403
    problem_type = "artifact-blocked"


class ApprovalRequiredError(GateError):
    """The artifact waits for a second person."""

    status = 403
    problem_type = "approval-required"


class CheckTimeoutError(GateError):
    """A security script did not end in time."""

    status = 503
    problem_type = "check-timeout"


class GateBusyError(GateError):
    """Too many checks are under way; the same request may pass in a moment."""

    status = 503
    problem_type = "gate-busy"


class GateMisconfiguredError(GateError):
    """A security script or its interpreter is missing or broken."""

    problem_type = "gate-misconfigured"


class DriftError(SecmonError):
    """A drift check could not be made."""

    problem_type = "drift-error"


class ModelDefinitionError(InvalidInputError):
    """A model's YAML, data source or estimator is wrong."""

    problem_type = "invalid-model-definition"
