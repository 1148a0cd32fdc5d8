"""Functions that tests send into boxes."""

import sys


def says_hello() -> None:
    sys.stdout.write("hello\n")


def raises() -> None:
    raise ValueError("on purpose")
