"""What YAML can declare: ``type: secmon_dagster.<Name>``."""

from secmon_dagster.orchestration.components.drift_monitor import DriftMonitor
from secmon_dagster.orchestration.components.monitored_model import MonitoredModel

__all__ = ["DriftMonitor", "MonitoredModel"]
