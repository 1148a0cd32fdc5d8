"""Which format bytes are, by magic; and which format a name promises."""

from __future__ import annotations

import tarfile

from .source import Source

_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"PK\x07\x08", "zip"),
    (b"\x93NUMPY", "npy"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00", "lzma"),
    (b"ZF0x", "zfile"),
    (b"\x1f\x9d", "compress"),
    (b"LZIP", "lzip"),
    (b"MSCF", "cab"),
    (b"xar!", "xar"),
    (b"070701", "cpio"),
    (b"070707", "cpio"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"GGUF", "gguf"),
    (b"FUGG", "gguf"),
    (b"\x7fELF", "executable"),
    (b"\xca\xfe\xba\xbe", "executable"),
    (b"\xfe\xed\xfa\xce", "executable"),
    (b"\xfe\xed\xfa\xcf", "executable"),
    (b"\xcf\xfa\xed\xfe", "executable"),
    (b"\xce\xfa\xed\xfe", "executable"),
    (b"\xca\xfe\xba\xbf", "executable"),
    (b"\x00asm", "executable"),
    (b"dex\n03", "executable"),
    (b"BC\xc0\xde", "executable"),
    (b"\xde\xc0\x17\x0b", "executable"),
    (b"\x1bLua", "executable"),
    (b"L\0\0\0\x01\x14\x02\0", "executable"),
    (b"!<arch>\n", "executable"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"SQLite format 3\x00", "sqlite"),
    (b"%PDF-", "pdf"),
)

PICKLE = frozenset({"pickle", "gzip", "zlib", "bzip2", "xz", "lzma", "zip"})
SCRIPTS = frozenset({"sh", "bash", "js", "mjs", "cjs", "pl", "rb", "lua", "r"})
TEXT = frozenset({"text", "json", "xml"})
_PROMISES: dict[str, frozenset[str]] = {
    "pkl": PICKLE,
    "pickle": PICKLE,
    "dill": PICKLE,
    "joblib": PICKLE,
    "pt": PICKLE,
    "pth": PICKLE,
    "ckpt": PICKLE | {"hdf5", "safetensors"},
    "npy": frozenset({"npy"}),
    "npz": frozenset({"zip"}),
    "zip": frozenset({"zip"}),
    "skops": frozenset({"zip"}),
    "keras": frozenset({"zip"}),
    "whl": frozenset({"zip"}),
    "safetensors": frozenset({"safetensors"}),
    "h5": frozenset({"hdf5"}),
    "hdf5": frozenset({"hdf5"}),
    "onnx": frozenset({"onnx"}),
    "pb": frozenset({"savedmodel", "onnx"}),
    "gguf": frozenset({"gguf"}),
    "ggml": frozenset({"gguf"}),
    "tar": frozenset({"tar"}),
    "tgz": frozenset({"gzip"}),
    "gz": frozenset({"gzip"}),
    "bz2": frozenset({"bzip2"}),
    "xz": frozenset({"xz"}),
    "lzma": frozenset({"lzma"}),
    "7z": frozenset({"7z"}),
    "parquet": frozenset({"parquet"}),
    "json": frozenset({"json"}),
    "ipynb": frozenset({"json"}),
    "pmml": frozenset({"xml"}),
    "xml": frozenset({"xml"}),
    "yaml": TEXT,
    "yml": TEXT,
    "csv": TEXT,
    "tsv": TEXT,
    "py": TEXT,
    "txt": TEXT,
    "md": TEXT,
    "jinja": TEXT,
}


def suffix_of(name: str) -> str:
    """The last extension of a name, lower-case, without the dot."""
    tail = name.replace("\\", "/").rpartition("/")[2]
    return tail.rpartition(".")[2].lower() if "." in tail else ""


def promised(name: str) -> frozenset[str] | None:
    """The formats a name promises, None where it promises nothing."""
    return _PROMISES.get(suffix_of(name))


def sniff(source: Source, name: str) -> str | None:
    """The format of the bytes by magic; None where only a trial or the name can tell."""
    head = source.read(0, 512)
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head.startswith(b"#!"):
        return None if suffix_of(name) == "py" else _script_kind(name)
    if _is_bytecode(head):
        return "executable"
    if head[:1] == b"\x80" and head[1:2] in (b"\x00", b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if head[:2] == b"MZ" and _is_pe(source, head):
        return "executable"
    if len(head) >= 2 and head[0] == 0x78 and (head[0] << 8 | head[1]) % 31 == 0:
        return "zlib"
    if is_tar_header(head):
        return "tar"
    if _is_safetensors(source, head):
        return "safetensors"
    return _text_kind(head)


def _script_kind(name: str) -> str:
    """A script under a script's name is what it says; under any other name it hides."""
    return "script" if suffix_of(name) in SCRIPTS else "executable"


def _is_pe(source: Source, head: bytes) -> bool:
    at = int.from_bytes(head[60:64], "little")
    return source.read(at, 4) == b"PE\0\0" or len(head) < 64 or source.read(at, 2) in (b"NE", b"LE")


def is_tar_header(head: bytes) -> bool:
    """Whether 512 bytes are the header of a tar member to Python's reader, which also takes a
    checksum of signed bytes or in base 256."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _is_bytecode(head: bytes) -> bool:
    """Python's compiled modules: a magic number with a line break, then flags and a time."""
    return head[2:4] == b"\r\n" and head[1:2] in (b"\x0c", b"\x0d", b"\x0e") and len(head) >= 16


def _is_safetensors(source: Source, head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and (head[5:8] == b"\0\0\0" or source.size < 1 << 40)


def _text_kind(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"\0" in head[:64] and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None
    if text[:1] in (b"{", b"["):
        return "json"
    if text.startswith((b"<?xml", b"<!DOCTYPE", b"<PMML", b"<!ENTITY")):
        return "xml"
    return None


def is_text(source: Source) -> bool:
    """Whether the bytes read as text: no control bytes, valid UTF-8 or UTF-16 with a mark."""
    head = source.read(0, 4096)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    if any(byte < 9 or 13 < byte < 27 or 27 < byte < 32 for byte in head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as broken:
        return broken.start > len(head) - 4
    return True
