"""Security monitoring for machine-learning platforms, built on Dagster.

``limits`` boxes every step, ``audit`` keeps a hash chain of what happened, ``gate`` decides which
artifacts may be used, ``drift`` watches models in production, ``posture`` scores agent instances
and ``vecsec`` detects prompt attacks. ``orchestration`` is where Dagster comes in.
"""

__version__ = "0.1.0"
