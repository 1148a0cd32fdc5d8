"""What YAML can declare: ``type: secmon_dagster.<Name>``."""

from secmon_dagster.orchestration.components.monitored_model import MonitoredModel

__all__ = ["MonitoredModel"]
