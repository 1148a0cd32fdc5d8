"""What no checkpoint covers yet, as the logger, the command line and the metrics tell it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from secmon_dagster.audit.window import Window
from secmon_dagster.cli.audit import app
from secmon_dagster.telemetry.sources import GAUGES


def metric(chain, name: str) -> float:
    (query,) = [gauge.query for gauge in GAUGES if f"'{name}'" in gauge.query]
    chain.admin.execute("SET search_path = secmon, public")
    return {row[0]: row[2] for row in chain.admin.execute(query).fetchall()}[name]


def test_an_empty_chain_and_a_covered_one_have_no_window(chain):
    assert chain.log.window() == Window(0, 0.0)
    chain.fill(3)
    chain.log.checkpoint()
    assert chain.log.window() == Window(0, 0.0)
    assert metric(chain, "secmon_audit_uncovered_seconds") == 0


@pytest.mark.parametrize("covered", [0, 3])
def test_the_window_counts_entries_and_the_age_of_the_oldest(chain, covered):
    chain.fill(covered)
    if covered:
        chain.log.checkpoint()
    chain.admin.execute("UPDATE secmon.audit_head SET timestamp = now() + interval '-1 hour'")
    chain.fill(2)
    chain.unguard()
    chain.admin.execute(
        "UPDATE secmon.audit_entries SET timestamp = now() - interval '90 s' WHERE seq = %s",
        (covered + 1,),
    )
    window = chain.log.window()
    assert window.entries == 2
    assert 90 <= window.seconds < 120
    assert metric(chain, "secmon_audit_uncovered_entries") == 2
    assert window.seconds <= metric(chain, "secmon_audit_uncovered_seconds") < 120
    told = json.loads(CliRunner().invoke(app, ["stats"]).stdout)["uncovered"]
    assert (told["entries"], told["checkpoint_due_after_entries"]) == (2, 1000)
    assert told["checkpoint_due_after_seconds"] == 10.0


def test_after_a_restore_the_checkpoints_of_lost_entries_cover_nothing(chain):
    chain.fill(5)
    chain.log.checkpoint()
    chain.unguard()
    chain.admin.execute("DELETE FROM secmon.audit_entries WHERE seq > 2")
    chain.admin.execute(
        "UPDATE secmon.audit_head h SET seq = 2, entry_hash = e.entry_hash"
        " FROM secmon.audit_entries e WHERE e.seq = 2"
    )
    chain.log.new_incarnation("restored from a backup")
    chain.fill(1)
    assert chain.log.window().entries == 1
    assert metric(chain, "secmon_audit_uncovered_entries") == 1
    assert chain.log.get_statistics()["checkpoint_size"] == 3
