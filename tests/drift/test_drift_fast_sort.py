"""The choice of numpy's sort is made by trying, once per machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from secmon_dagster.drift import fast_sort
from secmon_dagster.drift.fast_sort import (
    VARIABLE,
    WITHOUT_AVX512,
    fastest_sort_environment,
    remember_fastest_sort,
    remembered_sort_environment,
)


@pytest.fixture(autouse=True)
def _a_processor_with_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    lines = {"flags": "sse avx2 avx512f", "model name": "some", "stepping": "1"}
    monkeypatch.setattr(fast_sort, "_processor_line", lines.__getitem__)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (5.0, 1.0, {VARIABLE: WITHOUT_AVX512}),
        (1.0, 1.0, {}),
        (1.0, 5.0, {}),
        (None, 1.0, {}),
    ],
)
def test_the_faster_sort_wins_if_it_is_worth_it(
    monkeypatch: pytest.MonkeyPatch, own: float | None, other: float, expected: dict[str, str]
) -> None:
    monkeypatch.setattr(fast_sort, "_seconds", lambda extra: other if extra else own)
    assert fastest_sort_environment() == expected


def test_who_was_told_already_is_not_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "AVX2")
    assert fastest_sort_environment() == {}


def test_the_probe_itself_measures_a_sort() -> None:
    seconds = fast_sort._seconds({})
    assert seconds is not None and 0 < seconds < 1


def test_a_machine_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def seconds(extra: dict[str, str]) -> float:
        asked.append(extra)
        return 1.0 if extra else 5.0

    monkeypatch.setattr(fast_sort, "_seconds", seconds)
    assert remembered_sort_environment(tmp_path) == {}
    for _ in range(3):
        remember_fastest_sort(tmp_path)
        assert remembered_sort_environment(tmp_path) == {VARIABLE: WITHOUT_AVX512}
    assert len(asked) == 2


def test_a_folder_that_cannot_be_written_costs_speed_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_sort, "_seconds", lambda extra: 1.0)
    (tmp_path / "file").touch()
    remember_fastest_sort(tmp_path / "file")
    assert remembered_sort_environment(tmp_path / "file") == {}
