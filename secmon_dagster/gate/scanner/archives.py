"""Archives as a whole: which kind of model a zip is, and its members one by one."""

from __future__ import annotations

from .budget import UnreadableError
from .context import Scan
from .inflate import inflate
from .pickles import scan_pickle
from .skops import scan_skops
from .source import Part, Source
from .zips import Directory, Member, audit_layout, find_directory, open_member


def scan_zip(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge a zip archive: its layout, then each member."""
    try:
        directory = find_directory(source)
    except UnreadableError as broken:
        scan.report.block("zip-directory", str(broken), where)
        return
    if directory is None:
        scan.report.block("zip-directory", "a zip archive without a directory", where)
        return
    scan.report.saw_format("zip")
    audit_layout(scan, source, directory, where)
    kind = _kind(directory)
    if kind != "zip":
        scan.report.saw_format(kind)
    for member in directory.members:
        if not member.name.endswith("/") or member.size:
            _scan_member(scan, source, directory, member, kind, where)


def _kind(directory: Directory) -> str:
    names = {member.name for member in directory.members}
    tails = {name.rpartition("/")[2] for name in names}
    if "schema.json" in names:
        return "skops"
    if "data.pkl" in tails:
        return "torch"
    if "config.json" in names and "metadata.json" in names:
        return "keras"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    return "zip"


def _scan_member(
    scan: Scan, source: Source, directory: Directory, member: Member, kind: str, where: str
) -> None:
    place = f"{where}!{member.name}"
    try:
        content = open_member(scan, source, member, place)
    except UnreadableError as broken:
        scan.report.block("zip-member", f"{member.name} {broken}", place)
        return
    tail = member.name.rpartition("/")[2]
    if kind == "torch" and tail.endswith(".pkl"):
        end = scan_pickle(scan, content, place, torch=True)
        if end < content.size:
            scan.report.block("trailing-data", "bytes follow the pickle of a torch archive", place)
            scan.nested(Part(content, end, content.size - end), place, probing=True)
    elif kind == "skops" and member.name == "schema.json":
        scan_skops(scan, content, place, {entry.name for entry in directory.members})
    else:
        # The storages of tensors, numbered, have no format of their own.
        scan.nested(content, place, tail, probing=kind == "torch" and tail.isdigit())


def scan_compressed(scan: Scan, source: Source, where: str, name: str, kind: str) -> None:
    """Judge a compressed stream by what it inflates to."""
    content = inflate(source, kind, scan.budget)
    scan.report.saw_format(kind)
    for suffix in (".gz", ".bz2", ".xz", ".lzma", ".z", ".zz"):
        name = name.removesuffix(suffix)
    scan.nested(content, f"{where}!{kind}", name, probing="." not in name)
