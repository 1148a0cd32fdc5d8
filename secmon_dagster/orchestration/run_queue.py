"""The run queue, with the layers' rules at its door.

A run tagged ``secmon/instance`` gets its layer as ``secmon/layer``, which the executor's limits
follow. Under a layer with ``require_approval`` it stays in the queue, visible in the UI, until a
second person approves; the queue holds it by a limit of zero on its tag.

In ``dagster.yaml``::

    run_coordinator:
      module: secmon_dagster.orchestration.run_queue
      class: LayeredRunCoordinator
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from secmon_dagster.errors import SecmonError
from secmon_dagster.limits import LAYER_TAG
from secmon_dagster.orchestration.actor import actor_of
from secmon_dagster.posture import MonitoringMode, SecurityMonitoringService, Session
from secmon_dagster.posture.approvals import request_approval
from secmon_dagster.posture.executions import INSTANCE_TAG

APPROVAL_TAG = "secmon/approval"
PENDING = "pending"


def rules_of(session: Session, instance_id: str) -> tuple[str, bool]:
    """The layer of an instance, and whether its runs wait for a second person.

    Raises:
        NotFoundError: no such instance, or no layer was attached to it.
    """
    service = SecurityMonitoringService(session)
    profile = service.get_instance_security_profile(instance_id)
    layer = service.get_security_layer(profile.layer_id)
    passive = layer.monitoring_mode is MonitoringMode.PASSIVE
    return layer.layer_id, layer.config.require_approval and not passive


class LayeredRunCoordinator(dg.QueuedRunCoordinator):
    """Dagster's queue, which first asks under which layer a run stands."""

    def get_run_queue_config(self) -> Any:
        """The configured limits, and none at all for runs that wait for approval."""
        config = super().get_run_queue_config()
        held = {"key": APPROVAL_TAG, "value": PENDING, "limit": 0}
        return config._replace(tag_concurrency_limits=[*config.tag_concurrency_limits, held])

    def submit_run(self, context: dg.SubmitRunContext) -> dg.DagsterRun:
        """Queue a run under its instance's layer.

        Raises:
            NotFoundError: the run names an instance there isn't, or one without a layer; such a
                run fails instead of running without rules.
        """
        run = context.dagster_run
        instance_id = run.tags.get(INSTANCE_TAG)
        if instance_id is None:
            return super().submit_run(context)
        session = Session.open(actor=actor_of(run))
        try:
            layer_id, held = rules_of(session, instance_id)
            tags = {LAYER_TAG: layer_id}
            if held:
                # Whatever the tag said when the run was asked for, the decision is not the asker's.
                tags[APPROVAL_TAG] = PENDING
                request_approval(session, run.run_id, instance_id, run.job_name, actor_of(run))
        except SecmonError as refused:
            self._instance.report_run_failed(run, f"Not queued: {refused.message}")
            raise
        self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)
