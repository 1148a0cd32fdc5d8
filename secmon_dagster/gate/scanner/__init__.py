"""Judge a model file by its bytes, without ever loading it. Standard library only.

Stands alone: ``security_scripts/content_check.py`` imports it as ``scanner`` from any Python.
"""

from .budget import Budget
from .imports import ImportPolicy, Standing, load_policy
from .report import Finding, Level, Report
from .scan import VERSION, scan_path, scan_source

__all__ = [
    "VERSION",
    "Budget",
    "Finding",
    "ImportPolicy",
    "Level",
    "Report",
    "Standing",
    "load_policy",
    "scan_path",
    "scan_source",
]
