"""Where this process stands in the control-group file systems."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Our own group: one folder for each version 1 controller, one folder for version 2."""

    version1: dict[str, Path] = field(default_factory=dict)
    version2: Path | None = None


def find_hierarchies(proc: Path = Path("/proc/self")) -> Hierarchies:
    """Read ``mountinfo`` and ``cgroup``; an empty answer where there are none."""
    try:
        mounts = (proc / "mountinfo").read_text().splitlines()
        places = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return Hierarchies()
    path_of: dict[str, str] = {}
    for line in places:
        number, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else ["" if number == "0" else "?"]:
            path_of[controller] = path
    version1: dict[str, Path] = {}
    version2: Path | None = None
    for line in mounts:
        before, _, after = line.partition(" - ")
        root, mount_point = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" and version2 is None and "" in path_of:
            version2 = _folder(mount_point, root, path_of[""])
        elif kind == "cgroup":
            for controller in options.split()[-1].split(","):
                if controller in path_of and controller not in version1:
                    version1[controller] = _folder(mount_point, root, path_of[controller])
    return Hierarchies(version1, version2)


def writable(folder: Path) -> bool:
    """Whether groups can be made here and processes moved into them."""
    return os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)


def _folder(mount_point: str, root: str, path: str) -> Path:
    # In a container the mount may show only a part of the hierarchy, and the path may be told from
    # the host's point of view.
    inside = path.removeprefix(root) if root != "/" and path.startswith(root) else path
    folder = Path(mount_point) / inside.lstrip("/")
    return folder if folder.is_dir() else Path(mount_point)
