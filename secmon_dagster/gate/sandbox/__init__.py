"""Where security scripts run: forked from a small warm process, shut in, watched, gone afterwards.

``zygote.py`` and ``lockdown.py`` run in that process and know the standard library only.
"""

from secmon_dagster.gate.sandbox.launcher import Confinement, Ended, Warm, run_confined
from secmon_dagster.gate.sandbox.probe import available, strongest_isolation

__all__ = ["Confinement", "Ended", "Warm", "available", "run_confined", "strongest_isolation"]
