"""What this machine and user can enforce, and why not more."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from secmon_dagster.errors import EnforcementUnavailableError
from secmon_dagster.limits.backends import Backend, Cgroup1, Cgroup2, Sampled, groups
from secmon_dagster.limits.backends.cgroup1 import CONTROLLERS as VERSION1_CONTROLLERS
from secmon_dagster.limits.backends.cgroup2 import CONTROLLERS as VERSION2_CONTROLLERS
from secmon_dagster.limits.backends.hierarchy import find_hierarchies, writable
from secmon_dagster.limits.declaration import DEFAULT_LIMITS
from secmon_dagster.limits.network_filter import has_filters
from secmon_dagster.limits.proc import started_at, stat_of

BackendName = Literal["auto", "cgroup2", "cgroup1", "sampled"]
_PREFIX = "secmon-"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be enforced here. ``reasons`` says why a better back end was not chosen."""

    backend: str
    hard_limits: bool
    cgroup_versions: tuple[int, ...]
    writable_controllers: tuple[str, ...]
    network_namespaces: bool
    user_namespaces: bool
    seccomp_notify: bool
    reasons: tuple[str, ...] = field(default_factory=tuple)


def probe() -> Capabilities:
    """Find out, by trying; leaves nothing behind."""
    hierarchies = find_hierarchies()
    controllers = {name for name, folder in hierarchies.version1.items() if writable(folder)}
    versions = [1] if hierarchies.version1 else []
    if hierarchies.version2 is not None:
        versions.append(2)
        if writable(hierarchies.version2):
            available = hierarchies.version2 / "cgroup.controllers"
            controllers |= set(available.read_text().split())
    reasons: list[str] = []
    backend = _first(("cgroup2", "cgroup1", "sampled"), reasons)
    backend.close()
    return Capabilities(
        backend=backend.name,
        hard_limits=backend.name != "sampled",
        cgroup_versions=tuple(versions),
        writable_controllers=tuple(sorted(controllers)),
        network_namespaces=_child_can("entry.leave_the_network()"),
        user_namespaces=_child_can("entry.unshare(entry.CLONE_NEWUSER)"),
        seccomp_notify=has_filters(),
        reasons=tuple(reasons),
    )


def open_backend(wanted: BackendName = "auto", *, require_hard_limits: bool = False) -> Backend:
    """The back end to use; close it at the end.

    Raises:
        EnforcementUnavailableError: the one that was asked for, or hard limits, can't be had; the
            message says why.
    """
    if wanted not in get_args(BackendName):
        raise EnforcementUnavailableError(
            f"backend is {wanted!r}; allowed: {', '.join(get_args(BackendName))}"
        )
    order: tuple[str, ...] = ("cgroup2", "cgroup1", "sampled") if wanted == "auto" else (wanted,)
    if require_hard_limits:
        order = tuple(name for name in order if name != "sampled")
    reasons: list[str] = []
    sweep_stale_groups()
    try:
        return _first(order, reasons)
    except EnforcementUnavailableError:
        asked = "hard limits" if require_hard_limits else f"back end {wanted}"
        raise EnforcementUnavailableError(
            f"{asked} can't be had here: {'; '.join(reasons) or 'sampling is not hard'}",
            hint="`secmon doctor` shows what this machine can enforce; docs/limits.md how to get"
            " groups delegated without root.",
        ) from None


def _first(order: tuple[str, ...], reasons: list[str]) -> Backend:
    for name in order:
        try:
            return _open(name)
        except EnforcementUnavailableError as refused:
            reasons.append(f"{name}: {refused.message}")
    raise EnforcementUnavailableError("; ".join(reasons))


def _open(name: str) -> Backend:
    hierarchies = find_hierarchies()
    run_name = f"{_PREFIX}{os.getpid()}-{started_at(os.getpid()) or 0}-{uuid.uuid4().hex[:8]}"
    if name == "sampled":
        return Sampled()
    backend: Backend
    if name == "cgroup2":
        base = hierarchies.version2
        if base is None:
            raise EnforcementUnavailableError("no version 2 hierarchy is mounted")
        available = (base / "cgroup.controllers").read_text().split()
        missing = [each for each in VERSION2_CONTROLLERS if each not in available]
        if missing:
            raise EnforcementUnavailableError(f"{base} has no controller {', '.join(missing)}")
        if not writable(base):
            raise EnforcementUnavailableError(f"{base} is not ours to write")
        backend = Cgroup2(base, run_name)
    else:
        bases = hierarchies.version1
        missing = [each for each in VERSION1_CONTROLLERS if each not in bases]
        if missing:
            raise EnforcementUnavailableError(f"no hierarchy has controller {', '.join(missing)}")
        locked = [each for each in VERSION1_CONTROLLERS if not writable(bases[each])]
        if locked:
            raise EnforcementUnavailableError(f"{bases[locked[0]]} is not ours to write")
        backend = Cgroup1(bases, run_name)
    try:
        backend.create("probe", DEFAULT_LIMITS).destroy()
    except EnforcementUnavailableError:
        backend.close()
        raise
    return backend


def sweep_stale_groups() -> int:
    """Empty and remove the groups of owners that are no longer alive; returns how many."""
    hierarchies = find_hierarchies()
    bases = {*hierarchies.version1.values()}
    if hierarchies.version2 is not None:
        bases.add(hierarchies.version2)
    removed = 0
    for base in bases:
        for run in base.glob(f"{_PREFIX}*-*-*"):
            pid, _, rest = run.name.removeprefix(_PREFIX).partition("-")
            owner = stat_of(int(pid)) if pid.isdigit() else None
            if owner is None or str(owner.started) != rest.split("-")[0]:
                removed += groups.empty_and_remove(run)
    return removed


def _child_can(expression: str) -> bool:
    """Whether a fresh process can do it; our own must not be changed by trying."""
    folder = Path(__file__).parent
    script = f"import os, sys; sys.path.insert(0, {str(folder)!r}); import entry; {expression}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, check=False, timeout=30
    )
    return done.returncode == 0
