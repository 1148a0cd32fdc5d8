"""TensorFlow SavedModels: operators that read or write files, or call Python.

A ``NodeDef`` holds its operator as field 2, so the tag, the length and the name stand side by side
wherever the node is nested; no loader needs to be imitated to see them.
"""

from __future__ import annotations

import re

from .budget import UnreadableError
from .context import Scan
from .protobuf import fields
from .source import Source

OPERATORS = (
    *("ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc"),
    *(
        "LoadLibrary",
        "DebugIdentityV3",
        "WholeFileReader",
        "WholeFileReaderV2",
        "FileSystemSetConfiguration",
    ),
    *("LookupTableExport", "WriteAudioSummary", "RegisterDataset", "MergeV2Checkpoints"),
    *("CreateSummaryFileWriter", "CreateSummaryDbWriter", "SaveDataset", "SaveDatasetV2"),
    *("TextLineReader", "TFRecordReader", "FixedLengthRecordReader", "Rpc", "TryRpc"),
)
WINDOW = 16 << 20
# A length may be written with more bytes than it needs; its readers take that.
_PATTERNS = {
    operator: re.compile(
        b"(?:%c|%c\x80{0,3}\x00)%s" % (len(operator), len(operator) | 0x80, operator.encode()),
        re.DOTALL,
    )
    for operator in OPERATORS
}


def scan_savedmodel(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge the operators of a SavedModel or a frozen graph."""
    scan.report.saw_format("savedmodel")
    if not any(True for _ in fields(source)):
        raise UnreadableError("an empty protobuf message")
    at = 0
    while at < source.size:
        data = source.read(at, WINDOW)
        for operator, pattern in _PATTERNS.items():
            if pattern.search(data):
                scan.report.block("tensorflow-operator", f"the graph holds {operator}", where)
        scan.budget.check_time()
        at += WINDOW - 64
