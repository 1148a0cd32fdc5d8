"""Witnesses: places outside the database that keep what the log once signed.

A checkpoint proves something only to those who hold it where the log's operator can't change it.
"""

from __future__ import annotations

import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit

from secmon_dagster.audit.checkpoint import Checkpoint
from secmon_dagster.errors import CheckpointError, SettingsError
from secmon_dagster.settings import Settings

HTTP_TIMEOUT_SECONDS = 5.0


class Witness(Protocol):
    """A place that keeps checkpoints."""

    @property
    def name(self) -> str:
        """For messages; without credentials."""
        ...

    def publish(self, note: str) -> None:
        """Keep a note, durably.

        Raises:
            CheckpointError: it can't, or it knows a note that contradicts this one.
        """
        ...

    def notes(self) -> list[str]:
        """All notes it can give back."""
        ...


class FileWitness:
    """A file that only grows, a JSON line a note. Best on another machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def publish(self, note: str) -> None:
        """Append and flush to disk."""
        line = json.dumps({"at": datetime.now(UTC).isoformat(), "note": note}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                _cut_torn_line(file)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as failed:
            raise CheckpointError(f"witness {self.name}: {failed.strerror}") from None

    def notes(self) -> list[str]:
        """All notes. A last line that a crash cut off is no note; any other line that isn't one is
        given as it is, for the verifier to object to."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        except FileNotFoundError:
            return []
        except OSError as failed:
            raise CheckpointError(f"witness {self.name}: {failed.strerror}") from None
        return [_note_of(line) for line in lines[:-1]]


def _cut_torn_line(file: IO[bytes]) -> None:
    """Take away a last line that a crash or a full disk cut off: what is written behind it would
    become part of it, and no note either."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if file.read(1) not in (b"", b"\n"):
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _note_of(line: str) -> str:
    try:
        return str(json.loads(line)["note"])
    except (ValueError, KeyError, TypeError):
        return line


class StoreWitness:
    """A folder in any store that ``universal-pathlib`` knows; one object a checkpoint."""

    def __init__(self, url: str) -> None:
        from upath import UPath  # half a second that only those wait who have such a witness

        self.name = urlsplit(url)._replace(query="").geturl().rpartition("@")[2] or url
        try:
            self.folder = UPath(url)
        except (
            ValueError,
            ImportError,
        ) as unknown:  # no such scheme, or no driver
            raise SettingsError(f"witness {self.name}: {unknown}") from None

    def publish(self, note: str) -> None:
        """Write the object; never over another one."""
        checkpoint, _ = Checkpoint.open(note, [])
        slug = checkpoint.origin.replace("/", "_")
        path = self.folder / f"{slug}-{checkpoint.size:020d}.note"
        try:
            if path.exists():
                known, _ = Checkpoint.open(path.read_text(), [])
                if known != checkpoint:
                    raise CheckpointError(
                        f"witness {self.name} holds another checkpoint of size {checkpoint.size}"
                    )
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(note)
        except CheckpointError:
            raise
        except Exception as failed:  # drivers have exceptions of their own, e.g. for credentials
            raise CheckpointError(f"witness {self.name}: {failed}") from None

    def notes(self) -> list[str]:
        """All notes of the folder."""
        try:
            if not self.folder.exists():
                return []
            paths = sorted(self.folder.glob("*.note"), key=str)
            return [path.read_bytes().decode(errors="surrogateescape") for path in paths]
        except Exception as failed:
            raise CheckpointError(f"witness {self.name}: {failed}") from None


class HttpWitness:
    """A service that takes notes by POST and answers 2xx, or 409 if it knows a contradiction."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.hostname}{parts.path}"

    def publish(self, note: str) -> None:
        """Post the note."""
        import httpx  # likewise

        try:
            answer = httpx.post(
                self.url,
                content=note.encode(),
                headers={"Content-Type": "text/plain; charset=utf-8"},
                timeout=HTTP_TIMEOUT_SECONDS,
            )
        except httpx.HTTPError as failed:
            raise CheckpointError(f"witness {self.name}: {type(failed).__name__}") from None
        if not answer.is_success:
            raise CheckpointError(f"witness {self.name} answers {answer.status_code}")

    def notes(self) -> list[str]:
        """None: the service keeps them for its own auditors."""
        return []


def witnesses(settings: Settings) -> list[Witness]:
    """The local file, and what ``SECMON_AUDIT_WITNESSES`` names."""
    found: list[Witness] = [FileWitness(settings.home / "witness" / "checkpoints.jsonl")]
    for target in filter(None, (part.strip() for part in settings.audit_witnesses.split(","))):
        if target.startswith(("http://", "https://")):
            found.append(HttpWitness(target))
        elif target.endswith(".jsonl"):
            found.append(FileWitness(Path(target)))
        else:
            found.append(StoreWitness(target))
    return found
