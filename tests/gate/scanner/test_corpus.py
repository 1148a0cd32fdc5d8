"""No hostile file passes, hardly an ordinary one is stopped."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from secmon_dagster.gate.scanner import scan_source
from secmon_dagster.gate.scanner.source import Bytes
from tests.gate.scanner import benign, benign_variants, hostile, hostile_loaders, hostile_variants

CORPUS = hostile.corpus() + hostile_variants.corpus() + hostile_loaders.corpus()


@pytest.mark.parametrize(
    ("name", "data"), [case[1:] for case in CORPUS], ids=[f"{c[0]}/{c[1]}" for c in CORPUS]
)
def test_a_hostile_file_is_blocked(name, data):
    report = scan_source(Bytes(data), name)
    assert report.recommendation == "block", report.to_dict()


def test_each_class_of_bypass_is_in_the_corpus():
    counted = Counter(case[0] for case in CORPUS)
    assert len(counted) == 17
    assert sum(counted.values()) >= 100


def test_ordinary_files_pass():
    stopped, number = [], 0
    for name, data in chain(benign.data(), benign.models()):
        number += 1
        report = scan_source(Bytes(data), name)
        if report.recommendation != "allow":
            stopped.append((name, report.to_dict()["findings"]))
    assert number >= 600
    assert stopped == []


def test_files_that_look_a_little_like_attacks_are_not_blocked():
    reports = {name: scan_source(Bytes(data), name) for name, data in benign_variants.files()}
    assert [name for name, found in reports.items() if found.recommendation == "block"] == []
    # Commands for a shell in a notebook, and bytes of no format, are passed with a warning.
    warned = {name for name, found in reports.items() if found.recommendation == "warn"}
    assert warned == {"study.ipynb", "bundle.zip", "bundle.tar"}
