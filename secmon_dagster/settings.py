"""Every environment variable the project reads, typed, in one place.

Variables that came with the original documents keep their printed names (``AUDIT_DB_URL``,
``MONITORING_TIMEOUT``, …); the project's own start with ``SECMON_``. A ``.env`` file in the current
folder is read; the environment wins over it. ``secmon settings`` prints the result and where
each value came from, with secrets masked.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from secmon_dagster.errors import SettingsError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
MODELS = PROJECT_ROOT / "secmon_dagster" / "defs" / "models"  # declared in YAML


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as unknown:
        raise ValueError(
            f"no time zone is called {name!r}; use an IANA name such as Europe/Berlin"
        ) from unknown
    return name


# In `.env` no shell has replaced the ~ of a path.
FilePath = Annotated[Path, AfterValidator(Path.expanduser)]


def bundled_scripts() -> Path:
    """In a checkout beside the package; in a wheel inside it."""
    beside = PROJECT_ROOT / "security_scripts"
    return beside if beside.is_dir() else Path(__file__).resolve().parent / "_security_scripts"


class Settings(BaseSettings):
    """The settings of one process. Build through :func:`get_settings`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,  # a compose file hands on what its user left out as ""
        case_sensitive=True,
        extra="ignore",
        frozen=True,
    )

    # --- where things are -------------------------------------------------------------------------
    home: FilePath = Field(
        default=PROJECT_ROOT / ".secmon",
        validation_alias="SECMON_HOME",
        description="All local state: embedded database, artifacts, compute logs, keys, sockets.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        validation_alias="SECMON_DATABASE_URL",
        description="A PostgreSQL server of one's own; unset means the embedded one.",
    )
    writer_password: SecretStr | None = Field(
        default=None,
        validation_alias="SECMON_WRITER_PASSWORD",
        description="Password of role secmon_writer; unset means SET ROLE is used.",
    )
    service_password: SecretStr | None = Field(
        default=None,
        validation_alias="SECMON_SERVICE_PASSWORD",
        description="Password of role secmon_service; unset means SET ROLE is used.",
    )
    reader_password: SecretStr | None = Field(
        default=None,
        validation_alias="SECMON_READER_PASSWORD",
        description="Password of role secmon_reader; unset means SET ROLE is used.",
    )
    user: str | None = Field(
        default=None,
        validation_alias="SECMON_USER",
        description="Who acts, as it is written to the audit chain; unset means the login name.",
    )

    # --- audit ------------------------------------------------------------------------------------
    audit_db_url: SecretStr | None = Field(
        default=None,
        validation_alias="AUDIT_DB_URL",
        description="Database of the audit chain; unset means the project's own.",
    )
    audit_max_payload_bytes: int = Field(
        default=1_048_576,
        ge=1024,
        le=67_108_864,
        validation_alias="SECMON_AUDIT_MAX_PAYLOAD_BYTES",
        description="Largest data or details of one entry, canonical JSON in bytes.",
    )
    audit_checkpoint_seconds: float = Field(
        default=10.0,
        gt=0,
        le=86_400,
        validation_alias="SECMON_AUDIT_CHECKPOINT_SECONDS",
        description="An entry is covered by a signed checkpoint after at most this long.",
    )
    audit_checkpoint_entries: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        validation_alias="SECMON_AUDIT_CHECKPOINT_ENTRIES",
        description="A checkpoint is due after this many entries.",
    )
    audit_origin: str = Field(
        default="secmon-dagster/audit",
        validation_alias="SECMON_AUDIT_ORIGIN",
        description="First line of each checkpoint: the name of this log.",
    )
    audit_signing_key: SecretStr | None = Field(
        default=None,
        validation_alias="SECMON_AUDIT_SIGNING_KEY",
        description="Ed25519 signing key of checkpoints (C2SP note form or PEM); unset: key file.",
    )
    audit_signing_key_file: FilePath | None = Field(
        default=None,
        validation_alias="SECMON_AUDIT_SIGNING_KEY_FILE",
        description="File of the signing key; unset means keys/audit.key under the home folder.",
    )
    audit_witnesses: str = Field(
        default="",
        validation_alias="SECMON_AUDIT_WITNESSES",
        description="Where checkpoints go besides the local file: comma-separated paths or URLs.",
    )

    # --- gate -------------------------------------------------------------------------------------
    monitoring_timeout: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        validation_alias="MONITORING_TIMEOUT",
        description="Seconds a security script may run.",
    )
    monitoring_max_output: int = Field(
        default=10_000,
        ge=100,
        le=10_000_000,
        validation_alias="MONITORING_MAX_OUTPUT",
        description="Characters of a script's output that are read and kept.",
    )
    security_scripts_dir: FilePath = Field(
        default_factory=bundled_scripts,
        validation_alias="SECURITY_SCRIPTS_DIR",
        description="Folder of the security scripts.",
    )
    gate_min_isolation: Literal["rlimits", "landlock", "userns", "bubblewrap"] = Field(
        default="rlimits",
        validation_alias="SECMON_GATE_MIN_ISOLATION",
        description="Weakest sandbox a security script may run in.",
    )
    gate_cache_seconds: float = Field(
        default=3600.0,
        ge=0,
        le=86_400,
        validation_alias="SECMON_GATE_CACHE_SECONDS",
        description="How long a verdict on the same bytes, script and policy is reused.",
    )
    gate_max_bytes: int = Field(
        default=20_000_000_000,
        ge=1,
        validation_alias="SECMON_GATE_MAX_BYTES",
        description="Largest artifact the gate takes.",
    )

    # --- drift ------------------------------------------------------------------------------------
    drift_scheduler_timezone: Annotated[str, AfterValidator(_time_zone)] = Field(
        default="UTC",
        validation_alias="DRIFT_SCHEDULER_TIMEZONE",
        description="Time zone of drift schedules (IANA name).",
    )
    drift_scheduler_use_apscheduler: bool | None = Field(
        default=None,
        validation_alias="DRIFT_SCHEDULER_USE_APSCHEDULER",
        description="Accepted for compatibility; Dagster schedules here.",
    )
    alert_webhook: SecretStr | None = Field(
        default=None,
        validation_alias="MONITORING_ALERT_WEBHOOK",
        description="URL that alerts are posted to (Slack-compatible JSON).",
    )
    alert_webhook_secret: SecretStr | None = Field(
        default=None,
        validation_alias="SECMON_ALERT_WEBHOOK_SECRET",
        description="Key of the HMAC-SHA256 signature sent with each alert.",
    )
    alert_urls: SecretStr | None = Field(
        default=None,
        validation_alias="SECMON_ALERT_URLS",
        description="Further alert targets as apprise URLs, comma-separated.",
    )
    alert_allow_private_addresses: bool = Field(
        default=False,
        validation_alias="SECMON_ALERT_ALLOW_PRIVATE_ADDRESSES",
        description="Allow webhooks on loopback and private networks.",
    )

    # --- api and metrics --------------------------------------------------------------------------
    bind_host: str = Field(
        default="127.0.0.1",
        validation_alias="SECMON_BIND_HOST",
        description="Address the servers of `secmon up` listen on.",
    )
    webserver_port: int = Field(
        default=3000,
        ge=1,
        le=65_535,
        validation_alias="SECMON_WEBSERVER_PORT",
        description="Port of the Dagster UI.",
    )
    api_port: int = Field(
        default=8000,
        ge=1,
        le=65_535,
        validation_alias="SECMON_API_PORT",
        description="Port of the REST API.",
    )
    api_requests_per_minute: int = Field(
        default=600,
        ge=1,
        le=10_000,
        validation_alias="SECMON_API_REQUESTS_PER_MINUTE",
        description="Requests one API key may make in any 60 seconds.",
    )
    api_max_body_bytes: int = Field(
        default=1_048_576,
        ge=1024,
        le=67_108_864,
        validation_alias="SECMON_API_MAX_BODY_BYTES",
        description="Largest body of an API request; larger ones are answered 413.",
    )
    api_body_seconds: float = Field(
        default=15.0,
        gt=0,
        le=600,
        validation_alias="SECMON_API_BODY_SECONDS",
        description="The head and the body of a request may each take this long, else 408; "
        "a client that stops reading is cut off after it.",
    )
    metrics_port: int = Field(
        default=9091,
        ge=1,
        le=65_535,
        validation_alias="SECMON_METRICS_PORT",
        description="Port of the metrics exporter.",
    )

    # --- vecsec -----------------------------------------------------------------------------------
    baseten_api_key: SecretStr | None = Field(
        default=None,
        validation_alias="BASETEN_API_KEY",
        description="Key of the inference service.",
    )
    baseten_model_id: str | None = Field(
        default=None,
        validation_alias="BASETEN_MODEL_ID",
        description="Model of the inference service.",
    )
    baseten_base_url: str = Field(
        default="https://inference.baseten.co/v1",
        validation_alias="SECMON_BASETEN_BASE_URL",
        description="OpenAI-compatible base URL of the inference service.",
    )

    @model_validator(mode="after")
    def _apscheduler_is_not_used(self) -> Settings:
        if self.drift_scheduler_use_apscheduler:
            warnings.warn(
                "DRIFT_SCHEDULER_USE_APSCHEDULER is ignored: Dagster schedules drift checks here; "
                "start the daemon with `make up` or `dagster-daemon run`.",
                UserWarning,
                stacklevel=2,
            )
        return self


def load_settings() -> Settings:
    """Read the environment and ``.env`` anew.

    Raises:
        SettingsError: naming each variable, its value and what is allowed.
    """
    try:
        return Settings()
    except ValidationError as invalid:
        raise SettingsError(_explain(invalid)) from None
    except (OSError, UnicodeDecodeError) as unreadable:
        raise SettingsError(f"{Path('.env').absolute()} can't be read: {unreadable}") from None


@cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()


def variable_of(field: str) -> str:
    """The environment variable behind a field of :class:`Settings`."""
    return str(Settings.model_fields[field].validation_alias)


def _explain(invalid: ValidationError) -> str:
    secret = {
        variable_of(name)
        for name, info in Settings.model_fields.items()
        if "SecretStr" in str(info.annotation)
    }
    sentences = []
    for error in invalid.errors():
        variable = str(error["loc"][0]) if error["loc"] else "settings"
        value = "********" if variable in secret else repr(error["input"])
        sentences.append(f"{variable} is {value}: {error['msg'].removeprefix('Value error, ')}")
    return "; ".join(sentences)
