"""Pickle files: one stream or several, what follows them, and torch's old layout."""

from __future__ import annotations

from .budget import UnreadableError
from .context import Scan
from .pickle_machine import Machine
from .pickle_rules import PickleRules, probe_pickle
from .source import Part, Source

TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def scan_pickle(
    scan: Scan,
    source: Source,
    where: str,
    *,
    start: int = 0,
    torch: bool = False,
    arrays: bool = False,
) -> int:
    """Judge the stream at ``start``. Returns the offset after STOP, or the size if it is broken.

    ``torch`` and ``arrays``: see :class:`PickleRules`.
    """
    scan.report.saw_format("pickle")
    rules = PickleRules(scan, source, where, torch=torch, arrays=arrays)
    try:
        return Machine(source, rules, scan.budget).run(start)
    except UnreadableError as broken:
        scan.report.block("broken-pickle", str(broken), where)
        return source.size


def scan_pickles(scan: Scan, source: Source, where: str) -> None:
    """Judge a pickle file: its first stream, those that follow, and what comes after them."""
    if source.read(0, len(TORCH_LEGACY)) == TORCH_LEGACY:
        _scan_torch_legacy(scan, source, where)
        return
    end = scan_pickle(scan, source, where, arrays=True)
    streams = 1
    while end < source.size:
        while end < source.size and not (padding := source.read(end, 4096)).strip(b"\0"):
            end += len(padding)
        if end >= source.size:
            break
        padding = source.read(end, 4096)
        end += len(padding) - len(padding.lstrip(b"\0"))
        after = probe_pickle(scan, source, where, start=end)
        if after is None:
            scan.report.warn(
                "trailing-data", f"{source.size - end} bytes follow the pickle", f"{where}@{end}"
            )
            scan.nested(Part(source, end, source.size - end), f"{where}!trailing", probing=True)
            return
        end = after
        streams += 1
        scan.budget.spend_member()
    if streams > 1:
        scan.report.saw_format(f"{streams} pickle streams")


def _scan_torch_legacy(scan: Scan, source: Source, where: str) -> None:
    """``torch.save`` before 1.6: magic, version, platform, object and storage keys, each a pickle;
    then the raw storages."""
    scan.report.saw_format("torch")
    end = 0
    for _ in range(5):
        end = scan_pickle(scan, source, where, start=end, torch=True)
