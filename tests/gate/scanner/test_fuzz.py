"""Whatever the bytes are, the scanner ends with a report: no crash, no hang, no load.

Cases that once failed are kept as explicit examples.
"""

from __future__ import annotations

import gzip

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.gate.scanner import benign, hostile
from tests.gate.scanner.fuzz_target import CORPUS, NAMES, judge, run_input

SEEDS = [(name, data) for _, name, data in hostile.corpus() if len(data) < 20_000]
SEEDS += [(name, data) for name, data in benign.data() if len(data) < 20_000]


@st.composite
def mutated(draw):
    name, data = draw(st.sampled_from(SEEDS))
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        match draw(st.sampled_from(["byte", "insert", "delete", "cut", "copy", "number"])):
            case "byte":
                changed[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "insert":
                changed[at:at] = draw(st.binary(max_size=8))
            case "delete":
                del changed[at : at + draw(st.integers(1, 16))]
            case "cut":
                del changed[at:]
            case "copy":
                changed[at:at] = changed[at : at + 32]
            case "number":
                changed[at : at + 4] = draw(
                    st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
                )
    return bytes(changed), draw(st.sampled_from([name, *NAMES]))


ROUNDS = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=300, **ROUNDS)
@given(case=mutated())
def test_a_changed_file_gets_a_report(case):
    judge(*case)


@settings(max_examples=200, **ROUNDS)
@given(data=st.binary(max_size=400), name=st.sampled_from(NAMES))
@example(data=b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.", name="x.pkl")
@example(data=b"\x93NUMPY\x01\x00\x02\x00()", name="x.npy")
@example(data=b"\x93NUMPY\x01\x00\x04\x00None", name="x.npy")
@example(data=b"PK\x05\x06" + b"\xff" * 18, name="x.npz")
@example(data=b"PK\x05\x06" + b"\0" * 18, name="x.skops")
@example(data=b"\x02\0\0\0\0\0\0\0[]", name="x.safetensors")
@example(data=b"\x02\0\0\0\0\0\0\0{}", name="x.safetensors")
@example(data=b'{"nbformat": 4, "cells": 3}', name="x.ipynb")
@example(data=b'{"class_name": "x", "module": ""}', name="x.json")
@example(data=b"[" * 100_000, name="x.json")
@example(data=b"(" * 100_000, name="x.py")
@example(data=b"(" * 100_000, name="x.pkl")
@example(data=b"GGUF\x03\0\0\0" + b"\0" * 8, name="x.gguf")
def test_any_bytes_get_a_report(data, name):
    judge(data, name)


@pytest.mark.slow
@settings(max_examples=100_000, **ROUNDS)
@given(case=mutated())
def test_many_changed_files_get_reports(case):
    judge(*case)


def test_a_zip_end_record_at_the_start_of_inflated_bytes_gets_a_report():
    judge(gzip.compress(b"abcdefghijkPK\x05\x06" + b"\xff" * 16 + b"\0\0", mtime=0), "x.pkl")


def test_what_the_fuzzer_reached_gets_reports_still():
    kept = sorted(CORPUS.iterdir())
    assert kept
    for path in kept:
        run_input(path.read_bytes())
