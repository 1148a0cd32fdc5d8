"""Zip archives, read by our own walk over central directory and local headers.

Loaders differ in which of the two they believe, so each difference between them blocks, as does
whatever hides bytes from one of them (prefix, gap, overlap, duplicate name, encryption, bad CRC).

Source: PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import stat
import struct
import zlib
from dataclasses import dataclass

from .budget import UnreadableError
from .context import Scan
from .inflate import inflate
from .source import Bytes, Part, Source

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s2B4HL2L2H")
METHODS = {0: "stored", 8: "deflate", 12: "bzip2", 14: "lzma"}
MAX_TAIL = 65_557
CHUNK = 1 << 22


@dataclass(frozen=True)
class Member:
    """One entry of the central directory. Sizes and offsets in bytes."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int
    mode: int
    renamed: bool = False


@dataclass(frozen=True)
class Directory:
    """A central directory: where it begins, where the archive ends, and its members."""

    start: int
    end: int
    members: tuple[Member, ...]


def find_directory(source: Source) -> Directory | None:
    """The central directory a reader from the end would find, None if there is none.

    Raises:
        UnreadableError: an end record is there and doesn't fit the file.
    """
    tail_at = max(0, source.size - MAX_TAIL)
    tail = source.read(tail_at, MAX_TAIL)
    found = tail.rfind(b"PK\x05\x06")
    while found >= 0:
        if found + _END.size <= len(tail):
            _, disk, _, _, count, length, start, comment = _END.unpack_from(tail, found)
            end = tail_at + found
            if end + _END.size + comment <= source.size:
                after = end + _END.size + comment
                break
        found = tail.rfind(b"PK\x05\x06", 0, found)
    else:
        return None
    if disk not in (0, 0xFFFF):
        raise UnreadableError("a zip archive of several disks")
    locator = source.read(max(0, end - _END64_LOCATOR.size), _END64_LOCATOR.size)
    if locator[:4] == b"PK\x06\x07":
        # Some readers look for these records always, some only where a number below is full; some
        # believe the locator, some take what stands before it.
        _, _, end64, _ = _END64_LOCATOR.unpack(locator)
        end -= _END64_LOCATOR.size + _END64.size
        record = source.read(max(0, end), _END64.size)
        if end64 != end or len(record) < _END64.size or record[:4] != b"PK\x06\x06":
            raise UnreadableError("a zip64 end record that is not there")
        *_, count64, length64, start64 = _END64.unpack(record)
        short = (
            (count, 0xFFFF, count64),
            (length, 0xFFFFFFFF, length64),
            (start, 0xFFFFFFFF, start64),
        )
        if any(known not in (full, wide) for known, full, wide in short):
            raise UnreadableError("the zip's two end records differ")
        count, length, start = count64, length64, start64
    if start + length != end or (count and source.read(start, 4) != b"PK\x01\x02"):
        if start + length < end and end >= length and source.read(end - length, 4) == b"PK\x01\x02":
            raise UnreadableError("the zip archive begins before its first member")
        raise UnreadableError("the zip directory is not where its end record says")
    return Directory(start, after, tuple(_members(source, start, length, count)))


def _members(source: Source, start: int, length: int, count: int) -> list[Member]:
    if length > 64 << 20:
        raise UnreadableError("a zip directory of more than 64 MiB")
    data = source.read(start, length)
    members, at = [], 0
    while at < len(data):
        if data[at : at + 4] != b"PK\x01\x02" or at + _CENTRAL.size > len(data):
            raise UnreadableError("the zip directory is broken")
        fields = _CENTRAL.unpack_from(data, at)
        flags, method, crc, packed, size = fields[5], fields[6], fields[9], fields[10], fields[11]
        name_length, extra_length, comment_length = fields[12], fields[13], fields[14]
        header, mode = fields[18], fields[17] >> 16
        at += _CENTRAL.size
        raw = data[at : at + name_length]
        extra = data[at + name_length : at + name_length + extra_length]
        size, packed, header = _zip64(extra, size, packed, header)
        name = raw.decode("utf-8" if flags & 0x800 else "cp437", "backslashreplace")
        renamed = _has_other_name(extra, raw)
        members.append(Member(name, raw, flags, method, crc, packed, size, header, mode, renamed))
        at += name_length + extra_length + comment_length
    if len(members) != count & 0xFFFFFFFF and len(members) & 0xFFFF != count:
        raise UnreadableError(f"the zip directory promises {count} members, has {len(members)}")
    return members


def _zip64(extra: bytes, *values: int) -> tuple[int, ...]:
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        if tag == 1:
            count = min(length, len(extra) - at - 4) // 8
            wide = iter(struct.unpack_from(f"<{count}Q", extra, at + 4))
            return tuple(next(wide, v) if v == 0xFFFFFFFF else v for v in values)
        at += 4 + length
    return values


def _has_other_name(extra: bytes, raw: bytes) -> bool:
    """Whether Info-ZIP's Unicode path field gives a name of its own."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        if tag == 0x7075 and extra[at + 9 : at + 4 + length] != raw:
            return True
        at += 4 + length
    return False


def open_member(scan: Scan, source: Source, member: Member, where: str) -> Source:
    """The bytes of a member, inflated within the budget and checked against its CRC.

    Raises:
        UnreadableError: its local header, method, size or CRC is wrong.
    """
    scan.budget.spend_member()
    packed = Part(source, data_offset(source, member), member.packed)
    if member.method not in METHODS:
        raise UnreadableError(f"compression method {member.method} can't be read here")
    if member.method == 0:
        content: Source = packed
    elif member.method == 14:
        content = inflate(_alone(packed, member.size), "lzma", scan.budget, single=True)
    else:
        content = inflate(packed, METHODS[member.method], scan.budget, single=True)
    if content.size != member.size:
        raise UnreadableError(f"has {content.size} bytes, promises {member.size}")
    crc = 0
    for at in range(0, content.size, CHUNK):
        crc = zlib.crc32(content.read(at, CHUNK), crc)
        scan.budget.check_time()
    if crc != member.crc:
        raise UnreadableError("has a wrong CRC; loaders differ on whether they read it")
    return content


def _alone(packed: Source, size: int) -> Source:
    """Zip's LZMA layout as the stand-alone format: properties, size, data."""
    head = packed.read(0, 9)
    if len(head) < 9 or head[2:4] != b"\x05\x00":
        raise UnreadableError("an LZMA member without properties")
    body = packed.read(9, packed.size)
    return Bytes(head[4:9] + struct.pack("<Q", size) + body)


def data_offset(source: Source, member: Member) -> int:
    """Where a member's data begins, by its local header."""
    header = source.read(member.header, _LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
        raise UnreadableError("has no local header")
    fields = _LOCAL.unpack(header)
    return member.header + _LOCAL.size + int(fields[10]) + int(fields[11])


def audit_layout(scan: Scan, source: Source, directory: Directory, where: str) -> None:
    """Block each thing on which readers of this archive could disagree."""
    report = scan.report
    seen: set[str] = set()
    at = 0
    for member in sorted(directory.members, key=lambda m: m.header):
        place = f"{where}!{member.name}"
        _audit_name(scan, member, place)
        if member.name.lower() in seen:
            report.block("zip-duplicate", "two members have one name", place)
        seen.add(member.name.lower())
        if member.flags & 0x2041:
            report.block("zip-encrypted", "a member is marked as encrypted", place)
        try:
            data = data_offset(source, member)
            _audit_local(scan, source, member, place)
        except UnreadableError as broken:
            report.block("zip-header", f"{member.name} {broken}", place)
            continue
        if member.header < at:
            report.block("zip-overlap", "two members share bytes", place)
        elif member.header > at:
            _audit_gap(scan, source, at, member.header, where)
        at = data + member.packed
        if member.flags & 8:
            at += _descriptor_length(source, at, member)
    if at < directory.start:
        _audit_gap(scan, source, at, directory.start, where)
    if directory.end < source.size:
        report.block("zip-trailing", f"{source.size - directory.end} bytes follow it", where)


def _audit_name(scan: Scan, member: Member, place: str) -> None:
    name = member.name.replace("\\", "/")
    if (
        name.startswith("/")
        or ".." in name.split("/")
        or ":" in name[:3]
        or "\0" in name
        or "\\" in member.name
    ):
        scan.report.block("path-traversal", "a member would be written elsewhere", place)
    if member.renamed:
        scan.report.block("zip-names", "a Unicode path field gives it another name", place)
    if stat.S_ISLNK(member.mode):
        scan.report.block("symlink", "a member is a symbolic link", place)


def _audit_local(scan: Scan, source: Source, member: Member, place: str) -> None:
    fields = _LOCAL.unpack(source.read(member.header, _LOCAL.size))
    if fields[0] != b"PK\x03\x04":
        raise UnreadableError("has no local header")
    flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    name = source.read(member.header + _LOCAL.size, fields[10])
    if name != member.raw_name:
        scan.report.block("zip-names", f"the local header calls it {name.decode('latin-1')}", place)
    if flags & 0x2041 and not member.flags & 0x2041:
        scan.report.block("zip-encrypted", "a member is marked as encrypted", place)
    if method != member.method or (flags ^ member.flags) & 8:
        scan.report.block("zip-header", "local header and directory differ in method", place)
    if not flags & 8 and (
        crc != member.crc
        or packed not in (member.packed, 0xFFFFFFFF)
        or size not in (member.size, 0xFFFFFFFF)
    ):
        scan.report.block("zip-header", "local header and directory differ in size or CRC", place)


def _descriptor_length(source: Source, at: int, member: Member) -> int:
    data = source.read(at, 24)
    signed = 4 if data[:4] == b"PK\x07\x08" else 0
    wide = struct.pack("<LQQ", member.crc, member.packed, member.size)
    return signed + (20 if data[signed : signed + 20] == wide else 12)


def _audit_gap(scan: Scan, source: Source, start: int, end: int, where: str) -> None:
    place = f"{where}@{start}"
    if start == 0:
        scan.report.block("polyglot", f"{end} bytes stand before the archive", place)
        scan.nested(Part(source, 0, end), f"{where}!prefix", probing=True)
        return
    for at in range(start, end, CHUNK):
        scan.budget.check_time()
        gap = source.read(at, min(end - at, CHUNK))
        if gap.strip(b"\0"):
            hidden = b"PK\x03\x04" in gap
            rule, what = ("zip-hidden", "a member") if hidden else ("zip-gap", "bytes")
            scan.report.block(rule, f"{what} in {end - start} bytes of no member", place)
            return
