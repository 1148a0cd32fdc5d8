"""A compliance report of a period: what the tables say, with references, and no legal claims."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg

from secmon_dagster.database import transaction
from secmon_dagster.errors import InvalidInputError

_ROWS = 1000


@dataclass(frozen=True)
class Section:
    """One table of the report.

    Attributes:
        references: criteria and articles it is evidence for; which of them apply is for the
            reader's counsel to say.
        missing: tables this installation hasn't got; the section is then empty for that reason.
        truncated: there were more rows than shown.
    """

    title: str
    references: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...] = ()
    missing: tuple[str, ...] = ()
    truncated: bool = False


@dataclass(frozen=True)
class ComplianceReport:
    """All sections of a period, start included, end not."""

    start: datetime
    end: datetime
    made_at: datetime
    sections: tuple[Section, ...] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def to_html(self) -> str:
        """One page without scripts or anything loaded from elsewhere."""
        parts = [
            "<!doctype html><html lang=en><meta charset=utf-8><title>Compliance report</title>"
            "<style>body{font:15px sans-serif;margin:2em}table{border-collapse:collapse}"
            "td,th{border:1px solid #bbb;padding:3px 8px;text-align:left}</style>"
            f"<h1>Compliance report</h1><p>{self.start.isoformat()} to {self.end.isoformat()}, "
            f"made {self.made_at.isoformat()}. References are pointers, not legal advice.</p>"
        ]
        for section in self.sections:
            parts.append(f"<h2>{html.escape(section.title)}</h2>")
            parts.append(f"<p>{html.escape('; '.join(section.references))}</p>")
            if section.missing:
                parts.append(f"<p>Not recorded here: {html.escape(', '.join(section.missing))}</p>")
            elif not section.rows:
                parts.append("<p>None.</p>")
            else:
                parts.append(_table(section))
        return "".join(parts) + "</html>\n"


def _table(section: Section) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in section.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in section.rows
    )
    more = f"<p>Only the first {_ROWS} are shown.</p>" if section.truncated else ""
    return f"<table><tr>{head}</tr>{body}</table>{more}"


@dataclass(frozen=True)
class _Question:
    title: str
    references: tuple[str, ...]
    tables: tuple[str, ...]
    columns: tuple[str, ...]
    query: str


_AUDIT = ("SOC 2 CC7.2", "HIPAA 45 CFR 164.312(b)", "GDPR Art. 5(2), 30")
_CHANGE = ("SOC 2 CC8.1", "HIPAA 45 CFR 164.312(c)(1)")

_QUESTIONS = (
    _Question(
        "Who did what", _AUDIT, ("secmon.audit_entries",), ("actor", "action", "times", "last"),
        """SELECT actor, action, count(*), max("timestamp") FROM audit_entries
            WHERE "timestamp" >= %(start)s AND "timestamp" < %(end)s
            GROUP BY actor, action ORDER BY actor, action""",
    ),
    _Question(
        "Limits violated", ("SOC 2 A1.1", "SOC 2 CC7.2"), ("secmon.step_usage",),
        ("ended", "job", "op", "run", "violation", "enforcement"),
        """SELECT ended_at, job_name, op_name, run_id, violation, enforcement FROM step_usage
            WHERE violation IS NOT NULL AND ended_at >= %(start)s AND ended_at < %(end)s
            ORDER BY ended_at""",
    ),
    _Question(
        "Artifacts blocked", ("SOC 2 CC6.8", *_CHANGE), ("secmon.monitoring_history",),
        ("at", "artifact", "script", "action", "user", "sha256"),
        """SELECT executed_at, artifact_id, script_name, action_taken, user_id, sha256
             FROM monitoring_history WHERE action_taken IN ('blocked', 'error')
              AND executed_at >= %(start)s AND executed_at < %(end)s ORDER BY executed_at""",
    ),
    _Question(
        "Artifacts approved or denied", _CHANGE, ("secmon.approvals",),
        ("decided", "artifact", "requester", "state", "by"),
        """SELECT decided_at, artifact_id, requester, state, decided_by FROM approvals
            WHERE decided_at >= %(start)s AND decided_at < %(end)s ORDER BY decided_at""",
    ),
    _Question(
        "Drift raised and resolved", ("SOC 2 CC7.2", "SOC 2 CC7.3"), ("secmon.alert_outbox",),
        ("at", "source", "subject", "event", "level", "delivered"),
        """SELECT created_at, source, subject_id, event, level, delivered_at FROM alert_outbox
            WHERE created_at >= %(start)s AND created_at < %(end)s ORDER BY created_at""",
    ),
    _Question(
        "Prompt attacks", ("SOC 2 CC6.6", "SOC 2 CC7.2"), ("secmon.vecsec_events",),
        ("kind", "type", "verdict", "times"),
        """SELECT kind, type, verdict, sum(count) FROM vecsec_events
            WHERE at >= %(start)s AND at < %(end)s AND kind IN ('analysis', 'rlsa_violation')
            GROUP BY kind, type, verdict ORDER BY kind, type, verdict""",
    ),
    _Question(
        "Chain verified", _AUDIT, ("secmon.audit_verifications",),
        ("at", "verdict", "entries"),
        """SELECT verified_at, verdict, total_entries FROM audit_verifications
            WHERE verified_at >= %(start)s AND verified_at < %(end)s ORDER BY verified_at""",
    ),
    _Question(
        "Covered by checkpoints", _AUDIT, ("secmon.audit_checkpoints",),
        ("origin", "up to entry", "at"),
        """SELECT origin, max(size), max(created_at) FROM audit_checkpoints
            WHERE created_at < %(end)s GROUP BY origin""",
    ),
    _Question(
        "Archived for retention", ("GDPR Art. 5(1)(e), 17", "HIPAA 45 CFR 164.316(b)(2)(i)"),
        ("secmon.audit_archives",), ("first", "last", "file", "sha256", "at"),
        """SELECT first_seq, last_seq, file, file_sha256, archived_at FROM audit_archives
            WHERE archived_at >= %(start)s AND archived_at < %(end)s ORDER BY first_seq""",
    ),
)  # fmt: skip


def compliance_report(start: datetime, end: datetime) -> ComplianceReport:
    """The report of ``start`` (included) to ``end`` (not).

    Raises:
        InvalidInputError: start is not before end.
        DatabaseError: PostgreSQL doesn't answer.
    """
    if start >= end:
        raise InvalidInputError.of("from", start.isoformat(), f"before {end.isoformat()}")
    with transaction() as connection:
        sections = tuple(_answer(connection, one, start, end) for one in _QUESTIONS)
    return ComplianceReport(start, end, datetime.now(UTC), sections)


def _answer(
    connection: psycopg.Connection[Any], question: _Question, start: datetime, end: datetime
) -> Section:
    missing = tuple(
        name
        for name in question.tables
        if connection.execute("SELECT to_regclass(%s)", [name]).fetchone() == (None,)
    )
    rows: list[tuple[Any, ...]] = []
    if not missing:
        limited = f"SELECT * FROM ({question.query}) q LIMIT {_ROWS + 1}"  # noqa: S608 - ours
        rows = connection.execute(limited, {"start": start, "end": end}).fetchall()
    return Section(
        question.title,
        question.references,
        question.columns,
        tuple(rows[:_ROWS]),
        missing,
        len(rows) > _ROWS,
    )
