"""Tar archives: names, links and devices, then each member."""

from __future__ import annotations

import io
import tarfile

from .budget import UnreadableError
from .context import Scan
from .pickles import scan_pickle
from .source import Part, Source


class SourceFile(io.RawIOBase):
    """A source as the file object that :mod:`tarfile` reads."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._source.size if size is None or size < 0 else size
        data = self._source.read(self._at, min(wanted, 64 << 20))
        self._at += len(data)
        return data


def scan_tar(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge a tar archive."""
    scan.report.saw_format("tar")
    try:
        with tarfile.open(fileobj=SourceFile(source), mode="r:") as archive:
            names = set()
            for member in archive:
                scan.budget.spend_member()
                scan.budget.check_time()
                place = f"{where}!{member.name}"
                _audit(scan, member, place)
                names.add(member.name)
                if member.isfile() and not member.sparse:
                    _member(scan, source, member, place)
            _audit_rest(scan, source, archive.offset, where)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as broken:
        raise UnreadableError(f"a broken tar archive: {broken}") from None
    if not names:
        raise UnreadableError("a tar archive without members")


def _audit_rest(scan: Scan, source: Source, start: int, where: str) -> None:
    """What stands behind the end of an archive is another archive to some readers."""
    for at in range(start, source.size, 1 << 22):
        scan.budget.check_time()
        if source.read(at, 1 << 22).strip(b"\0"):
            scan.report.block("trailing-data", "bytes follow the end of the archive", where)
            return


def _audit(scan: Scan, member: tarfile.TarInfo, place: str) -> None:
    name = member.name.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or ":" in name[:3]:
        scan.report.block("path-traversal", "a member would be written elsewhere", place)
    if member.issym() or member.islnk():
        scan.report.block("symlink", f"a member links to {member.linkname}", place)
    elif not (member.isfile() or member.isdir()):
        scan.report.block("device", "a member is neither file nor folder", place)
    elif member.sparse:
        scan.report.block("tar-sparse", "a sparse member", place)


def _member(scan: Scan, source: Source, member: tarfile.TarInfo, place: str) -> None:
    content = Part(source, member.offset_data, member.size)
    tail = member.name.rpartition("/")[2]
    if tail in ("pickle", "storages", "tensors", "sys_info"):  # torch before 0.1.10
        end = scan_pickle(scan, content, place, torch=True)
        if tail == "pickle" and end < content.size:
            scan.report.block("trailing-data", "bytes follow the pickle", place)
        return
    scan.nested(content, place, tail)
