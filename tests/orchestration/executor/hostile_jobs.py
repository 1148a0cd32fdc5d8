"""Ops that turn against whoever runs them, in one job."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time

import dagster as dg

from secmon_dagster.limits import limits
from secmon_dagster.orchestration.executor import resource_limit_executor

MB = 1024 * 1024


@dg.op
def one() -> int:
    return 1


def _write_to_channel(data: bytes) -> None:
    """Write to the channel to the run's process, as a hostile op would: to every socket it has."""
    for number in range(3, 256):
        try:
            found = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        if found.family == socket.AF_UNIX:
            found.sendall(data)


@dg.op
def writes_garbage():
    _write_to_channel(b"\xff\xff\xff\xff garbage")
    time.sleep(30)


@dg.op
def sends_a_frame_of_nonsense():
    _write_to_channel(b"\0\0\0\5Ehaha")
    time.sleep(30)


@dg.op
def forges_the_success_of_another(context: dg.OpExecutionContext):
    from dagster._serdes import serialize_value

    record = context.instance.all_logs(context.run_id)[0]
    forged = serialize_value(record).encode()
    _write_to_channel(struct.pack(">I", len(forged) + 1) + b"E" + forged)
    time.sleep(30)


@dg.op
def closes_all_descriptors():
    os.closerange(3, 4096)


@dg.op
def kills_its_parent():
    os.kill(os.getppid(), 9)
    time.sleep(1)


@dg.op
def exits_without_a_word():
    os._exit(0)


@dg.op
def exits_with_seven():
    os._exit(7)


@dg.op
def returns_what_can_not_be_pickled():
    return lambda: None


@dg.op
def crashes():
    os.kill(os.getpid(), signal.SIGSEGV)


@dg.op
def leaves_a_daemon(context: dg.OpExecutionContext):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            context.log.info(f"daemon {os.getpid()}")
            os.execvp("sleep", ["sleep", "300"])
        os._exit(0)
    os.wait()
    time.sleep(0.3)


@dg.op
def fills_the_pipe(context: dg.OpExecutionContext):
    for _ in range(20):
        context.log.info("x" * MB)


@dg.op(tags=limits(memory="64MiB"))
def succeeds_while_a_child_is_out_of_memory():
    child = subprocess.Popen([sys.executable, "-c", f"x = bytearray({300 * MB})"])
    time.sleep(0.4)
    del child


@dg.job(executor_def=resource_limit_executor)
def hostile():
    one()
    writes_garbage()
    sends_a_frame_of_nonsense()
    forges_the_success_of_another()
    closes_all_descriptors()
    kills_its_parent()
    exits_without_a_word()
    exits_with_seven()
    returns_what_can_not_be_pickled()
    crashes()
    leaves_a_daemon()
    fills_the_pipe()
    succeeds_while_a_child_is_out_of_memory()
