"""The prompt detector as a model of the platform: gated before use, its scores watched in use.

The packages of the gate, of drift and of the detector don't know each other; here they meet. The
command line and Dagster both put detectors into use through :func:`platform`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from secmon_dagster import drift
from secmon_dagster.audit import enqueue
from secmon_dagster.drift.registry import ModelDriftConfig, register
from secmon_dagster.gate import Gatekeeper
from secmon_dagster.vecsec import DetectorModel
from secmon_dagster.vecsec.versions import MODEL_ID, Platform, artifact_of

SCORE = "score"
# Score by score of the version in use. The number is ours and hexadecimal: nothing to quote.
_WINDOW = """
SELECT score FROM vecsec_events
 WHERE kind = 'analysis' AND at > now() - interval '1 day'
   AND left(details ->> 'version', 16) = '{version}'
 ORDER BY at DESC LIMIT 50000
"""


def platform(user: str) -> Platform:
    """What ``user`` needs to put a detector into use."""
    return Platform(
        enqueue=enqueue, gate=lambda file: through_the_gate(file, user), watch=watch_scores
    )


def through_the_gate(file: Path, user: str) -> bytes:
    """Have the gate read a model file; returns the bytes it let pass.

    Raises:
        GateError: it doesn't let these bytes pass.
    """
    keeper = Gatekeeper(enqueue=enqueue)
    artifact = keeper.register(
        file,
        artifact_id=artifact_of(file.stem),
        name=file.name,
        type="model",
        uploaded_by=user,
    )
    keeper.check(artifact.id, user_id=user)
    with keeper.open_released(artifact.id, user_id=user) as released:
        return released.read()


def watch_scores(version: str, model: DetectorModel) -> None:
    """From now on a day's scores are compared, daily, with those the thresholds rest on.

    Scores that have moved away say that the thresholds no longer keep their false-alarm rate: time
    to calibrate on the deployment's own traffic.
    """
    reference = drift.profile(pd.DataFrame({SCORE: model.reference}))
    drift.save_baseline(MODEL_ID, version, reference)
    register(
        ModelDriftConfig(
            model_id=MODEL_ID,
            model_version=version,
            features_to_monitor=[SCORE],
            source={"window": {"sql": _WINDOW.format(version=version)}},
        ),
        datetime.now(UTC),
    )
