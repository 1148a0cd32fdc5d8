"""The three ways to limit processes, and which of them this machine has."""

from secmon_dagster.limits.backends.base import Backend, Box, Reading
from secmon_dagster.limits.backends.cgroup1 import Cgroup1
from secmon_dagster.limits.backends.cgroup2 import Cgroup2
from secmon_dagster.limits.backends.sampled import Sampled

__all__ = ["Backend", "Box", "Cgroup1", "Cgroup2", "Reading", "Sampled"]
