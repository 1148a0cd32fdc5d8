"""An IO manager that hands out only what the gate let pass.

Blocking asset checks are not a gate: the downstream asset can be materialised alone, and a passing
check can be reported by anybody who reaches the webserver. So the decision is made here, where the
bytes are read: they are hashed, and the verdict on that hash is looked up in the audit chain.
"""

from __future__ import annotations

from typing import Any

import dagster as dg
import skops.io

from secmon_dagster import gate
from secmon_dagster.errors import GateError
from secmon_dagster.gate.artifact import safe_file_name
from secmon_dagster.settings import get_settings


class GatedIOManager(dg.ConfigurableIOManager):
    """Stores a model as a skops file (no pickle) and an artifact of the gate.

    ``type`` is the artifact's type, which may choose its scripts; ``require_approval`` makes each
    version wait for a second person.
    """

    type: str = "model"
    require_approval: bool = False

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write, register and check; what is blocked fails the step that made it."""
        folder = get_settings().home / "artifacts" / "gated"
        folder = folder.joinpath(*(safe_file_name(part) for part in _parts(context)))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{safe_file_name(context.run_id)}.skops"
        skops.io.dump(obj, path)
        keeper = gate.Gatekeeper()
        artifact = keeper.register(
            path,
            "/".join(_parts(context)),
            self.type,
            context.step_context.dagster_run.tags.get("secmon/user", "dagster"),
            artifact_id=_identity(context),
            require_approval=self.require_approval,
        )
        verdict = keeper.check(artifact.id, run_id=context.run_id)
        context.add_output_metadata(
            {
                "file": dg.MetadataValue.path(path),
                "sha256": str(artifact.sha256),
                "gate_action": str(verdict.action),
                "gate_findings": dg.MetadataValue.json([dict(f) for f in verdict.findings]),
                "gate_isolation": str(verdict.result.isolation),
            }
        )
        if not verdict.allowed:
            raise dg.Failure(gate.refusal(verdict).message, allow_retries=False)

    def load_input(self, context: dg.InputContext) -> Any:
        """The model, read from the very bytes whose verdict was looked up.

        Raises:
            dagster.Failure: no verdict on these bytes allows it; not retried.
        """
        upstream = context.upstream_output
        if upstream is None:
            raise dg.DagsterInvariantViolationError("a gated input has an upstream output")
        try:
            with gate.Gatekeeper().open_released(_identity(upstream)) as file:
                content = file.read()
        except GateError as refused:
            raise dg.Failure(refused.diagnostics(), allow_retries=False) from refused
        # The gate has judged every type in the file; skops asks for the same consent again.
        return skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content))


def _parts(context: dg.OutputContext) -> list[str]:
    parts = [*context.asset_key.path] if context.has_asset_key else [*context.get_identifier()[1:]]
    return [*parts, context.partition_key] if context.has_partition_key else parts


def _identity(context: dg.OutputContext) -> str:
    return "gated/" + "/".join(_parts(context))
