"""Frames, and the addresses that refused calls name."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secmon_dagster.limits.channel import ChannelCorrupted, FrameReader, encode_frame
from secmon_dagster.limits.network import describe_address
from secmon_dagster.limits.network_filter import CALLS, assemble


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(1, 50))
def test_payloads_come_out_as_they_went_in_however_the_stream_is_cut(payloads, size):
    stream = b"".join(encode_frame(payload) for payload in payloads)
    reader = FrameReader()
    found = []
    for start in range(0, len(stream), size):
        found += reader.feed(stream[start : start + size])
    assert found == payloads
    assert reader.pending == 0


@given(st.binary(max_size=100))
def test_any_bytes_are_frames_or_refused(data):
    reader = FrameReader()
    try:
        payloads = reader.feed(data)
    except ChannelCorrupted:
        return
    assert sum(len(payload) + 4 for payload in payloads) + reader.pending == len(data)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            struct.pack("=H", socket.AF_INET) + b"\x01\xbb" + bytes([192, 0, 2, 1]) + bytes(8),
            ("AF_INET", "192.0.2.1:443"),
        ),
        (
            struct.pack("=H", socket.AF_INET6)
            + struct.pack(">HI", 53, 0)
            + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
            + bytes(4),
            ("AF_INET6", "[2001:db8::1]:53"),
        ),
        (struct.pack("=H", socket.AF_UNIX) + b"\0name", ("AF_UNIX", "@name")),
        (struct.pack("=H", socket.AF_UNIX) + b"/run/postgres", None),
        (struct.pack("=H", socket.AF_UNSPEC), None),
        (b"", None),
    ],
)
def test_only_addresses_that_lead_out_are_attempts(raw, expected):
    assert describe_address(raw) == expected


@given(st.binary(max_size=128))
def test_no_address_breaks_the_reader(raw):
    describe_address(raw)


@pytest.mark.parametrize("machine", sorted(CALLS))
def test_every_jump_of_the_filter_lands_inside_it(machine):
    program = assemble(CALLS[machine], link=7)
    for index, (code, yes, no, _) in enumerate(program):
        assert 0 <= yes < 256
        assert 0 <= no < 256
        if code in (0x15, 0x35):
            assert index + 1 + max(yes, no) < len(program)
    assert program[-1][0] == 0x06
