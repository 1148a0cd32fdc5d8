"""The process's own logger."""

from __future__ import annotations

from functools import cache

from secmon_dagster.audit.logger import HashChainAuditLogger
from secmon_dagster.settings import get_settings


@cache
def _logger_for(database_url: str | None, configured: str) -> HashChainAuditLogger:
    return HashChainAuditLogger(database_url)


def get_audit_logger(database_url: str | None = None) -> HashChainAuditLogger:
    """The process's logger for this URL, made once; None means the configured database."""
    settings = get_settings()
    urls = [
        url.get_secret_value() if url is not None else ""
        for url in (settings.audit_db_url, settings.database_url)
    ]
    return _logger_for(database_url, "\n".join([*urls, str(settings.home)]))
