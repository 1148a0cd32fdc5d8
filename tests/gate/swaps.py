"""Ways to put other bytes where an artifact's file is, and ways to get at the gate's own copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from secmon_dagster.settings import get_settings


def writable(path: Path) -> None:
    """The gate's copies are read-only, which keeps nobody out who runs as the same user."""
    path.chmod(path.stat().st_mode | 0o200)


def overwritten(path: Path) -> None:
    """The very inode, same size, same times."""
    before = path.stat()
    writable(path)
    with path.open("r+b") as file:
        file.write(b"\x80\x04" + b"x" * (before.st_size - 2))
        file.flush()
        # By our own descriptor: whoever notices the write may close theirs at once.
        os.utime(file.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    other.replace(path)


def grown(path: Path) -> None:
    writable(path)
    with path.open("ab") as file:
        file.write(b"x")


def emptied(path: Path) -> None:
    writable(path)
    os.truncate(path, 0)


def a_symbolic_link(path: Path) -> None:
    target = path.with_suffix(".real")
    path.rename(target)
    path.symlink_to(target)


def a_hard_link(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    path.unlink()
    path.hardlink_to(other)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def gone(path: Path) -> None:
    path.unlink()


def behind_a_linked_folder(path: Path) -> None:
    """The folder above becomes a link to one with another file of the same name."""
    elsewhere = path.parent.with_name(path.parent.name + "-elsewhere")
    shutil.copytree(path.parent, elsewhere)
    overwritten(elsewhere / path.name)
    path.parent.rename(path.parent.with_name(path.parent.name + "-moved"))
    path.parent.symlink_to(elsewhere)


SWAPS: list[Callable[[Path], None]] = [
    overwritten, replaced, grown, emptied, a_symbolic_link, a_hard_link, a_pipe, a_folder, gone,
    behind_a_linked_folder,
]  # fmt: skip


def copies() -> list[Path]:
    """The gate's private copies that have a name now."""
    return list((get_settings().home / "gate").glob("snapshot-*/*"))


def unlinked_copies() -> list[Path]:
    """The gate's private copies that this process holds open and that have no name any more."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue  # the descriptor this very loop reads the folder with
        if "/gate/snapshot-" in target and target.endswith("(deleted)"):
            found.append(link)
    return found
