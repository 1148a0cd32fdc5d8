"""Resources for ops and assets."""

from __future__ import annotations

from typing import Any

import dagster as dg

from secmon_dagster.audit import HashChainAuditLogger, get_audit_logger


class AuditLogResource(dg.ConfigurableResource[Any]):
    """The audit chain, for ops and assets that have something to say themselves.

    Lifecycle events of runs and steps need no resource: they are written for every run.

    Example::

        @dg.asset
        def prices(audit_log: AuditLogResource) -> None:
            audit_log.append_entry("IMPORT", "prices_job", "dataset", "prices", {"rows": 1200})
    """

    database_url: str | None = None

    @property
    def logger(self) -> HashChainAuditLogger:
        """The process's logger for this database."""
        return get_audit_logger(self.database_url)

    def append_entry(self, *args: Any, **kwargs: Any) -> str:
        """See :meth:`HashChainAuditLogger.append_entry`."""
        return self.logger.append_entry(*args, **kwargs)
