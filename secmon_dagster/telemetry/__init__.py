"""Metrics of the whole platform, read from its tables: exporter, CSV export, compliance report.

Steps are short-lived processes, so nothing is counted in memory: ``Recorder`` adds up what is new
in the append-only tables, ``Exporter`` serves the totals, even while PostgreSQL is down.
"""

from secmon_dagster.telemetry.exporter import Exporter, PlatformCollector
from secmon_dagster.telemetry.metrics import METRICS, Kind, Metric
from secmon_dagster.telemetry.recorder import Recorder

__all__ = ["METRICS", "Exporter", "Kind", "Metric", "PlatformCollector", "Recorder"]
