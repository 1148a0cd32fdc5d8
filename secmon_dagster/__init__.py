"""Security monitoring for machine-learning platforms, built on Dagster.

``limits`` boxes every step, ``audit`` keeps a hash chain of what happened, ``gate`` decides which
artifacts may be used, ``drift`` watches models in production, ``posture`` scores agent instances
and ``vecsec`` detects prompt attacks. ``orchestration`` is where Dagster comes in.
"""

from importlib import import_module

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The components that YAML names as ``secmon_dagster.<Name>``, imported when asked for: nothing
    below ``orchestration`` may pull in Dagster."""
    if name in __all__:
        return getattr(import_module("secmon_dagster.orchestration.components"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["DriftMonitor", "MonitoredModel"]
