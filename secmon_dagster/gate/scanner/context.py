"""One scan under way: report, budget, policy, and how deep in containers it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .budget import Budget
from .imports import ImportPolicy
from .report import Report
from .source import Source

Dispatch = Callable[["Scan", Source, str, str, bool], None]


@dataclass
class Scan:
    """Handed to each format's reader. ``depth_left`` falls with each container entered."""

    policy: ImportPolicy
    budget: Budget
    dispatch: Dispatch
    report: Report = field(default_factory=Report)
    depth_left: int = 8

    def deeper(self) -> Scan:
        """The same scan, one container further in."""
        return replace(self, depth_left=self.depth_left - 1)

    def aside(self) -> Scan:
        """The same scan with a report of its own, to be absorbed or dropped."""
        return replace(self, report=Report(), depth_left=self.depth_left - 1)

    def absorb(self, other: Scan) -> None:
        """Take over the findings of a scan that was made aside."""
        for found in other.report.findings:
            self.report.add(found.level, found.rule, found.message, found.where, found.name)
        self.report.imports |= other.report.imports
        for name in other.report.formats:
            self.report.saw_format(name)

    def nested(self, source: Source, where: str, name: str = "", *, probing: bool = False) -> None:
        """Judge bytes found inside others; ``probing`` where they promise no format."""
        if self.depth_left <= 0:
            self.report.block("too-deep", "containers are nested too deep to be read", where)
            return
        self.dispatch(self.deeper(), source, where, name, probing)
