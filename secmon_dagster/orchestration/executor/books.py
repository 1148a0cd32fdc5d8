"""Where a run is written down besides Dagster's event log."""

from __future__ import annotations

from dataclasses import dataclass

from secmon_dagster.limits.violation import ResourceUsage, Violation
from secmon_dagster.orchestration.executor.steps import RunningStep
from secmon_dagster.orchestration.executor.trail import Trail
from secmon_dagster.orchestration.executor.usage_rows import UsageRow, UsageRows


@dataclass(frozen=True, slots=True)
class Books:
    """The audit chain and the table of usage."""

    trail: Trail
    usage: UsageRows
    actor: str | None

    def step_is_over(
        self,
        step: RunningStep,
        usage: ResourceUsage,
        violation: Violation | None,
        enforcement: str,
    ) -> None:
        """Note how a step ended; written with what comes next."""
        self.trail.step_is_over(step.key, step.outcome, usage.to_dict())
        self.usage.add(
            UsageRow(
                run_id=step.run_id,
                step_key=step.key,
                attempt=step.attempt,
                job_name=step.context.job_name,
                op_name=step.context.step.node_handle.name,
                enforcement=enforcement,
                limits=step.limits,
                outcome=step.outcome,
                violation=None if violation is None else violation.type.value,
                usage=usage,
                user_id=self.actor,
            )
        )
