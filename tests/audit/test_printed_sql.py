"""The SQL that the original documents print, unmodified, with right answers."""

from __future__ import annotations

import pytest

from secmon_dagster.database import Role, connect

RECENT = """
SELECT * FROM dag_audit_logs
WHERE level = 'critical'
AND event_type = 'security.violation'
ORDER BY timestamp DESC
LIMIT 10;
"""
SUMMARY = """
SELECT
  execution_id,
  COUNT(*) as total_events,
  COUNT(*) FILTER (WHERE level = 'error') as errors,
  COUNT(*) FILTER (WHERE level = 'critical') as critical_events
FROM dag_audit_logs
WHERE execution_id = 'dag_xxx'
GROUP BY execution_id;
"""
TIMEOUTS = """
SELECT
  job_id,
  COUNT(*) as timeout_count,
  AVG((details->>'timeoutMs')::int) as avg_timeout_ms
FROM dag_audit_logs
WHERE event_type = 'job.timeout'
GROUP BY job_id
ORDER BY timeout_count DESC;
"""


@pytest.fixture
def service(log):
    def add(event_type, level, job_id=None, **payload):
        log.append_entry(
            "EVENT", "ann", "run", "dag_xxx", level=level, event_type=event_type,
            execution_id="dag_xxx", job_id=job_id, **payload,
        )  # fmt: skip

    add("execution.start", "info")
    add("job.timeout", "error", "train", data={"timeoutMs": 60000})
    add("job.timeout", "error", "train", details={"timeoutMs": 30000})
    add("job.timeout", "error", "load", data={"timeoutMs": 1000})
    add("security.violation", "critical", "train", data=["not", "an object"])
    log.append_entry("DEPLOY", "bob", "model", level="critical")
    with connect(Role.SERVICE) as connection:
        yield connection


def test_recent_security_violations(service):
    cursor = service.execute(RECENT)
    names = [column.name for column in cursor.description]
    assert names == [
        "id", "timestamp", "event_type", "level", "execution_id", "job_id", "user_id", "details",
        "metadata", "created_at",
    ]  # fmt: skip
    (row,) = cursor.fetchall()
    assert dict(zip(names, row, strict=True))["details"] == {"data": ["not", "an object"]}


def test_execution_summary_with_violations(service):
    assert service.execute(SUMMARY).fetchall() == [("dag_xxx", 5, 3, 1)]


def test_job_timeouts_analysis(service):
    assert service.execute(TIMEOUTS).fetchall() == [("train", 2, 45000), ("load", 1, 1000)]


def test_the_queries_use_the_indexes(service):
    service.execute("SET enable_seqscan = off")
    for query, index in ((RECENT, "level"), (SUMMARY, "execution"), (TIMEOUTS, "event_type")):
        plan = "\n".join(line for (line,) in service.execute("EXPLAIN " + query).fetchall())
        assert "Index" in plan or "Bitmap" in plan, index
