"""The job of workflows that name none: it takes the input in and says how large it is."""

import dagster as dg

from secmon_dagster.orchestration.posture import AgentManagement
from secmon_dagster.orchestration.workflows import EXECUTION_TAG


@dg.op
def take_in_input(context: dg.OpExecutionContext, agents: AgentManagement) -> None:
    """Read the execution's input; a workflow with work to do names a job of its own."""
    execution_id = context.run.tags.get(EXECUTION_TAG)
    fields: list[str] = []
    if execution_id is not None:
        fields = sorted(agents.service.get_execution(execution_id).input_data)
    context.add_output_metadata({"input_fields": len(fields)})
    context.log.info("input fields: %s", ", ".join(fields) or "none")


@dg.job(description="Runs agent workflows that name no job of their own.")
def agent_workflow() -> None:
    """Takes the input in."""
    take_in_input()
