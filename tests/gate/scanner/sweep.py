"""Call every admitted name under an audit hook and report what it did. Run in a process of its own.

Each class and function of the allow-list that is installed is called with texts, with each of its
parameters by name, and (classes) given states through ``__setstate__``. An event that executes
text, starts a process, connects, or opens a file that no import would open is printed.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
import warnings
from typing import Any

from secmon_dagster.gate.scanner.imports import Standing, is_class_name, load_policy

CANARY = "/canary/file"
BAD = (
    "exec", "compile", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "marshal.",
    "tempfile.", "webbrowser.", "urllib.", "ftplib.", "pty.", "code.__new__",
)  # fmt: skip
# Who may do so: the import system with the library's own modules; threadpoolctl, which looks into
# the BLAS libraries that are loaded; ast.literal_eval, which compiles to a tree and no further.
INNOCENT = ("importlib._bootstrap>", "_bootstrap_external>", "threadpoolctl.py", "/ast.py")
STATES: tuple[Any, ...] = (
    {"a": CANARY}, {"_parse_arg_template": "import canary", "a": 1}, (None, {"a": CANARY}), CANARY,
)  # fmt: skip


# The rules for streams see to it that these get nothing else to call than what they are made for.
TOLD_WHAT_TO_CALL = (
    "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__randomstate_ctor",
)


class Watch:
    """The audit hook: armed only while an admitted name is called."""

    def __init__(self) -> None:
        self.armed = False
        self.current = ""
        self.called = 0
        self.broken: list[tuple[str, str, str]] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            path = str(arguments[0])
            libraries = (sys.prefix, sys.base_prefix, "/proc/self/maps")
            if CANARY in path or not path.startswith(libraries):
                self.broken.append((self.current, event, path[:80]))
        elif event == "import":
            # A codec is looked up among the modules of "encodings" and nowhere else.
            if "canary" in str(arguments[0]) and not str(arguments[0]).startswith("encodings."):
                self.broken.append((self.current, event, str(arguments[0])))
        elif event.startswith(BAD) and event not in ("os.listdir", "os.scandir"):
            frame: Any = sys._getframe(1)
            while frame is not None and not frame.f_code.co_filename.endswith(INNOCENT):
                frame = frame.f_back
            if frame is None:
                self.broken.append((self.current, event, repr(arguments)[:80]))

    def attempt(self, function: Any, *arguments: Any, **named: Any) -> None:
        self.armed = True
        try:
            function(*arguments, **named)
            self.called += 1
        except (Exception, SystemExit):
            return
        finally:
            self.armed = False


def targets() -> dict[str, Any]:
    """Every admitted name of the installed libraries."""
    policy = load_policy()
    found: dict[str, Any] = {}
    for module, name in sorted(policy.names):
        try:
            found[f"{module}.{name}"] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    for prefix in policy.prefixes:
        try:
            package = importlib.import_module(prefix)
        except ImportError:
            continue
        modules = [prefix]
        if hasattr(package, "__path__"):
            modules += [m.name for m in pkgutil.walk_packages(package.__path__, prefix + ".")]
        for module in modules:
            if ".tests" in module:
                continue
            try:
                members = vars(importlib.import_module(module))
            except ImportError:
                continue
            for name, value in members.items():
                if is_class_name(name) and policy.judge(module, name).standing is Standing.ALLOWED:
                    found[f"{module}.{name}"] = value
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    admitted, watch, policy = targets(), Watch(), load_policy()
    for watch.current, found in admitted.items():
        if callable(found) and not policy.only_named(*watch.current.rsplit(".", 1)):
            exercise(watch, found)
    result = {"targets": len(admitted), "called": watch.called, "broken": watch.broken}
    sys.stdout.write(json.dumps(result) + "\n")


def exercise(watch: Watch, found: Any) -> None:
    """Call one name in every way a file could."""
    if watch.current not in TOLD_WHAT_TO_CALL:
        give_callable(watch, found)
    for count in range(4):
        watch.attempt(found, *[CANARY] * count)
    try:
        parameters = list(inspect.signature(found).parameters)
    except (TypeError, ValueError):
        parameters = []
    watch.attempt(found, **{p: CANARY for p in parameters if p not in ("self", "args", "kwargs")})
    if not isinstance(found, type):
        return
    members = {name: CANARY for name in dir(found) if not name.startswith("__")}
    for state in (*STATES, {**members, "_parse_arg_template": "import canary"}):
        watch.attempt(restore, found, state)


def give_callable(watch: Watch, found: Any) -> None:
    """Call one name with functions for arguments, and restore it with functions for members: what
    calls those would call whatever a file gives it."""

    def given(*arguments: Any, **named: Any) -> None:
        if watch.armed and (arguments or named):
            watch.broken.append((watch.current, "call", "of what it was given"))

    for count in range(1, 4):
        watch.attempt(found, *[given] * count)
        watch.attempt(found, [1.0, 2.0], *[given] * count)
    if isinstance(found, type):
        watch.attempt(restore, found, dict.fromkeys(dir(found), given))


def restore(kind: type, state: Any) -> None:
    """What an unpickler does with NEWOBJ and BUILD."""
    kind.__new__(kind).__setstate__(state)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
