"""Other bytes, at each point between the check and the use: never released.

A test stops the gate at a point by wrapping the function that is called there, and swaps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from secmon_dagster.errors import (
    ApprovalRequiredError,
    ArtifactBlockedError,
    InvalidInputError,
    NotFoundError,
)
from secmon_dagster.gate import Gatekeeper, Outcome, artifact, gatekeeper
from secmon_dagster.gate.approval import State
from secmon_dagster.gate.artifact import Artifact
from secmon_dagster.gate.sealed import PIECE
from secmon_dagster.gate.upkeep import rescan, stale_artifacts
from tests.conftest import Database
from tests.gate.swaps import SWAPS, copies, overwritten, replaced, unlinked_copies

REFUSED = (ArtifactBlockedError, InvalidInputError, NotFoundError)
Swap = Callable[[Path], None]


@pytest.fixture
def keeper(database: Database) -> Gatekeeper:
    return Gatekeeper()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Some pieces long, so that there is something left to swap while it is read."""
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "array.npy"
    np.save(path, np.arange(3 * PIECE // 8, dtype=np.int64))
    return path


@pytest.fixture
def stored(keeper: Gatekeeper, file: Path) -> Artifact:
    return keeper.register(file, "array", "data", "ann")


@pytest.fixture
def checked(keeper: Gatekeeper, stored: Artifact) -> Artifact:
    assert keeper.check(stored.id).outcome is Outcome.ALLOW
    return stored


def stop_at(
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    act: Callable[[], None],
    *,
    nth: int = 1,
    after: bool = False,
) -> None:
    """Call ``act`` right before (or after) the ``nth`` call of a function."""
    original, calls = getattr(module, name), count(1)

    def stopped(*arguments, **options):
        number = next(calls)  # scripts run at the same time
        if number == nth and not after:
            act()
        result = original(*arguments, **options)
        if number == nth and after:
            act()
        return result

    monkeypatch.setattr(module, name, stopped)


def released(keeper: Gatekeeper, artifact_id: str, by: str) -> bytes:
    if by == "download":
        opened = keeper.download(artifact_id).file
        assert opened is not None
        with opened:
            return opened.readall()
    with keeper.open_released(artifact_id) as read:
        return read.read()


@pytest.mark.parametrize("by", ["open_released", "download"])
@pytest.mark.parametrize("swap", SWAPS)
def test_swapped_after_the_verdict(keeper, checked, file, by, swap: Swap):
    good = file.read_bytes()
    swap(file)
    with pytest.raises(REFUSED):
        released(keeper, checked.id, by)
    if file.parent.is_symlink():
        file.parent.unlink()
        file.parent.with_name(file.parent.name + "-moved").rename(file.parent)
    if file.is_dir():
        file.rmdir()
    file.unlink(missing_ok=True)
    file.write_bytes(good)
    assert keeper.check(checked.id).allowed
    assert released(keeper, checked.id, by) == good


@pytest.mark.parametrize("by", ["open_released", "download"])
@pytest.mark.parametrize("swap", SWAPS)
def test_swapped_between_the_decision_and_the_hand_over(
    keeper, checked, file, monkeypatch, by, swap: Swap
):
    good = file.read_bytes()
    stop_at(monkeypatch, gatekeeper, "require", lambda: swap(file))
    assert released(keeper, checked.id, by) == good
    monkeypatch.undo()


@pytest.mark.parametrize("by", ["open_released", "download"])
@pytest.mark.parametrize("swap", [overwritten, replaced])
def test_swapped_while_it_is_copied(keeper, checked, file, monkeypatch, by, swap: Swap):
    """Replaced by name, the open descriptor still reads the good file; overwritten, the copy is a
    mixture that has a hash of its own."""
    good = file.read_bytes()
    stop_at(monkeypatch, artifact, "read_piece", lambda: swap(file), nth=2)
    if swap is replaced:
        assert released(keeper, checked.id, by) == good
    else:
        with pytest.raises(ArtifactBlockedError, match="was registered|blocked"):
            released(keeper, checked.id, by)


def test_swapped_while_it_is_registered_is_judged_as_what_was_hashed(keeper, file, monkeypatch):
    stop_at(monkeypatch, artifact, "read_piece", lambda: overwritten(file), nth=2)
    made = keeper.register(file, "array", "data", "ann")
    assert not keeper.check(made.id).allowed
    with pytest.raises(ArtifactBlockedError):
        keeper.open_released(made.id)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_swapped_before_each_script_the_verdict_is_on_the_copy(
    keeper, stored, file, monkeypatch, nth
):
    good = file.read_bytes()
    stop_at(monkeypatch, gatekeeper, "run_security_check", lambda: replaced(file), nth=nth)
    assert keeper.check(stored.id).sha256 == stored.sha256
    with pytest.raises(ArtifactBlockedError):
        keeper.open_released(stored.id)
    file.write_bytes(good)
    assert released(keeper, stored.id, "open_released") == good


def put_aside_and_back(path: Path) -> None:
    """Another file under the copy's name for a while, then the copy itself again."""
    aside = path.with_suffix(".aside")
    path.rename(aside)
    path.write_bytes(b"other bytes")
    aside.replace(path)


@pytest.mark.parametrize("by", ["check", "download"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("swap", [overwritten, replaced, put_aside_and_back, os.unlink])
def test_a_copy_that_was_not_left_alone_while_scripts_read_it_has_no_verdict_that_passes(
    keeper, stored, database, monkeypatch, by, after, swap
):
    """The scripts open the copy by its name: who swaps it there shows them other bytes."""

    def act() -> None:
        (copy,) = copies()
        swap(copy)

    stop_at(monkeypatch, gatekeeper, "run_security_check", act, nth=2, after=after)
    if by == "download":
        with pytest.raises(ArtifactBlockedError, match="copy was changed"):
            keeper.download(stored.id)
    else:
        verdict = keeper.check(stored.id)
        assert [found["rule"] for found in verdict.findings] == ["copy-changed"]
    with pytest.raises(ArtifactBlockedError, match="copy was changed"):
        keeper.open_released(stored.id)
    with database.admin() as sql:
        told = sql.execute("SELECT action_taken FROM secmon.monitoring_history").fetchall()
    assert told == [("blocked",)]
    again = keeper.check(stored.id)
    assert (again.outcome, again.cached_from) == (Outcome.ALLOW, None)


@pytest.mark.parametrize("by", ["open_released", "download"])
def test_a_copy_overwritten_after_the_decision_is_not_read(
    keeper, checked, monkeypatch, by: str
):  # fmt: skip
    def act() -> None:
        (copy,) = copies()
        overwritten(copy)

    stop_at(monkeypatch, gatekeeper, "require", act)
    with pytest.raises(ArtifactBlockedError, match="after it was hashed"):
        released(keeper, checked.id, by)


def test_a_copy_overwritten_while_it_is_read_yields_no_byte_of_it(keeper, checked, file):
    good = file.read_bytes()
    with keeper.open_released(checked.id) as read:
        assert read.read(PIECE) == good[:PIECE]
        (copy,) = unlinked_copies()
        overwritten(copy)
        with pytest.raises(ArtifactBlockedError, match="after it was hashed"):
            read.read(1)
        read.seek(0, os.SEEK_SET)
        os.truncate(copy, PIECE)
        with pytest.raises(ArtifactBlockedError):
            read.seek(-1, os.SEEK_END)
            read.read()


def test_released_bytes_are_read_like_any_file(keeper, checked, file):
    good = file.read_bytes()
    with keeper.open_released(checked.id) as read:
        assert read.seek(PIECE - 3) == PIECE - 3
        assert read.read(6) == good[PIECE - 3 : PIECE + 3]
        assert read.seek(-5, os.SEEK_END) == len(good) - 5
        assert (read.read(), read.read(), read.tell()) == (good[-5:], b"", len(good))
        read.seek(0)
        assert (np.load(read) == np.load(file)).all()
        with pytest.raises(OSError):
            read.fileno()
    assert unlinked_copies() == []


def test_a_cached_verdict_is_for_the_bytes_it_was_made_on(keeper, checked, file):
    good = file.read_bytes()
    overwritten(file)
    verdict = keeper.check(checked.id)
    assert (verdict.cached_from, verdict.allowed) == (None, False)
    file.write_bytes(good)
    assert keeper.check(checked.id).cached_from is not None


def test_a_cached_verdict_gives_way_to_a_newer_one_of_another_process(
    keeper, stored, file, monkeypatch
):
    keeper.check(stored.id)
    other = Gatekeeper()
    with monkeypatch.context() as stopped:
        stop_at(stopped, gatekeeper, "run_security_check", lambda: overwritten(copies()[0]))
        assert not other.check(stored.id).allowed
    assert keeper.check(stored.id).cached_from is None


def test_swapped_while_it_is_scanned_again(keeper, checked, file, monkeypatch):
    good = file.read_bytes()
    stop_at(monkeypatch, gatekeeper, "run_security_check", lambda: replaced(file))
    (done,) = rescan(keeper, [checked.id])
    assert done.verdict.allowed and done.verdict.sha256 == checked.sha256
    (done,) = rescan(keeper, [checked.id])
    assert not done.verdict.allowed
    with pytest.raises(ArtifactBlockedError):
        keeper.open_released(checked.id)
    assert stale_artifacts() == []  # what was registered has its verdict; what lies there is none
    file.write_bytes(good)
    assert released(keeper, checked.id, "open_released") == good


def test_an_approval_is_for_the_old_bytes(keeper, file):
    options = {"artifact_id": "array", "require_approval": True}
    made = keeper.register(file, "array", "data", "ann", **options)
    keeper.check(made.id)
    asked = keeper.request_approval(made.id, "bob")
    keeper.decide(asked.id, State.APPROVED, "eve")
    good = released(keeper, made.id, "download")
    np.save(file, np.zeros(5))
    for by in ("download", "open_released"):
        with pytest.raises(ArtifactBlockedError):
            released(keeper, made.id, by)
    keeper.register(file, "array", "data", "ann", **options)
    assert keeper.check(made.id).allowed
    for by in ("download", "open_released"):
        with pytest.raises(ApprovalRequiredError):
            released(keeper, made.id, by)
    file.write_bytes(good)
    keeper.register(file, "array", "data", "ann", **options)
    with pytest.raises(ApprovalRequiredError):  # new bytes voided it; the old ones don't revive it
        released(keeper, made.id, "download")


def test_swapped_between_the_approval_and_the_release(keeper, file, monkeypatch):
    made = keeper.register(file, "array", "data", "ann", require_approval=True)
    keeper.check(made.id)
    asked = keeper.request_approval(made.id, "bob")
    overwritten(file)
    keeper.decide(asked.id, State.APPROVED, "eve")
    with pytest.raises(ArtifactBlockedError):
        keeper.open_released(made.id)
