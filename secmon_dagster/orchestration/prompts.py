"""The detector of prompt attacks that is in use, for the services that judge what agents are asked.

``posture`` takes any detector and ``vecsec`` has one; neither knows the other, so their faces bring
them together here.
"""

from __future__ import annotations

from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secmon_dagster.vecsec import SecAgent

_lock = Lock()


class DetectorInUse:
    """A prompt detector for :class:`~secmon_dagster.posture.SecurityMonitoringService`.

    Costs nothing until the first prompt is judged: its libraries take seconds to import.
    """

    def is_attack(self, prompt: str) -> bool:
        """Whether the detector would block ``prompt``; what it only flags is no finding."""
        from secmon_dagster.vecsec import Verdict

        return detector_in_use().analyze(prompt).verdict is Verdict.BLOCK


def detector_in_use() -> SecAgent:
    """The detector in use, read anew when its file is replaced. The very first is trained."""
    from secmon_dagster.vecsec.versions import in_use, model_file

    file = model_file()
    with _lock:  # callers wait for one training, not for one each
        if not file.exists():
            in_use()
        found = file.stat()
        return _loaded(str(file), found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=2)
def _loaded(file: str, changed: int, inode: int) -> SecAgent:
    from secmon_dagster.vecsec.versions import in_use

    return in_use()
