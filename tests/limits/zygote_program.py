"""A zygote without Dagster: gets warm after a while; its forks execute the code they are sent."""

import socket
import sys
import time

from secmon_dagster.limits.forks import serve
from secmon_dagster.limits.zygote import Control


def execute(document: bytes, channel: socket.socket) -> int:
    exec(document, {"channel": channel})
    return 0


if __name__ == "__main__":
    link = socket.socket(fileno=int(sys.argv[1]))
    time.sleep(float(sys.argv[2]))
    if reason := sys.argv[3]:
        Control(link).send({"op": "ready", "error": reason})
    else:
        serve(link, execute)
