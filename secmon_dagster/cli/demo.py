"""``secmon demo``: the main job, then the attacks on it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import dagster as dg

app = typer.Typer(
    help="The main job, end to end, on this machine.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

USER = "demo"

# what was shown, whether it went as expected, what was seen
Outcome = tuple[str, bool, str]


class _Scenes:
    """What was shown, and whether it went as expected."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.outcomes: list[Outcome] = []

    def begin(self, what: str) -> None:
        self.console.print(f"[bold]▸[/] {what} …", soft_wrap=True)

    def show(self, what: str, as_expected: bool, seen: str) -> None:
        self.outcomes.append((what, as_expected, seen))
        mark = "[green]✓[/]" if as_expected else "[red]✗[/]"
        self.console.print(f"  {mark} ", end="")
        self.console.print(" ".join(seen.split()), markup=False, soft_wrap=True)

    @property
    def all_as_expected(self) -> bool:
        return all(as_expected for _, as_expected, _ in self.outcomes)

    def table(self) -> Table:
        table = Table("", "scene", "what was seen")
        for what, as_expected, seen in self.outcomes:
            table.add_row("[green]✓[/]" if as_expected else "[red]✗[/]", what, seen)
        return table


@app.callback(invoke_without_command=True)
def demo() -> None:
    """Train, gate, release, audit and watch two models; then attack them. Exit code 0 only if
    everything went as it should."""
    from secmon_dagster.database import embedded
    from secmon_dagster.settings import MODELS, get_settings
    from secmon_dagster.training import read_specs

    read_specs(MODELS)
    scenes = _Scenes()
    own_server = get_settings().database_url is not None
    with nullcontext() if own_server else embedded.hold():
        _play(scenes)
    scenes.console.print(scenes.table())
    if not scenes.all_as_expected:
        raise typer.Exit(1)
    host, port = get_settings().bind_host, get_settings().webserver_port
    scenes.console.print(
        f"Next: [bold]make up[/], then look at http://{host}:{port} (assets, runs, sensors); "
        "while it runs, `secmon audit verify` on the command line; `secmon doctor` at any time."
    )


def _play(scenes: _Scenes) -> None:
    import dagster as dg

    from secmon_dagster.orchestration.instance import prepare

    scenes.begin("Preparing the database")
    prepare()
    # Scenes are independent of each other once the models are trained, and mostly wait for imports.
    with dg.DagsterInstance.get() as instance, ThreadPoolExecutor(2) as pool:
        _train(scenes, instance)
        scenes.begin("Attacking: a poisoned file, a runaway op, drifted data (three drill jobs)")
        for scene in [
            pool.submit(act, instance) for act in (_offer_a_poisoned_file, _run_away, _drift)
        ]:
            for what, as_expected, seen in scene.result():
                scenes.show(what, as_expected, seen)
        _audit(scenes)


def _train(scenes: _Scenes, instance: dg.DagsterInstance) -> None:
    from secmon_dagster.database import transaction
    from secmon_dagster.orchestration.demo import execute

    scenes.begin("Training, gating and releasing two models (job secure_training_pipeline)")
    done = execute(instance, "secure_training_pipeline", user=USER)
    with transaction() as connection:
        rows = connection.execute(
            "SELECT model_id, metrics, released_at FROM models WHERE run_id = %s ORDER BY model_id",
            (done.run.run_id,),
        ).fetchall()
    if not done.succeeded:
        reasons = "; ".join(f"{step}: {done.failure_text(step)}" for step in done.failures)
        scenes.show(
            "training", False, f"run {done.run.run_id} is {done.run.status.value}: {reasons}"
        )
        return
    for model_id, metrics, released_at in rows:
        scenes.show(
            f"{model_id} trained, gated, released",
            released_at is not None,
            f"{model_id}: accuracy {metrics['accuracy']:.3f}, ROC AUC {metrics['roc_auc']:.3f}, "
            f"cross-validated {metrics['cross_validated_accuracy']:.3f}"
            + (", released" if released_at else ", NOT released"),
        )
    if len(rows) < 2:
        scenes.show("two models", False, f"{len(rows)} models in the run")


def _offer_a_poisoned_file(instance: dg.DagsterInstance) -> list[Outcome]:
    from secmon_dagster.orchestration.demo import execute, poisoned_pickle

    file, proof = poisoned_pickle()
    offer = {"path": str(file), "name": file.stem}
    done = execute(
        instance,
        "offered_file_drill",
        user="mallory",
        config={"ops": {"register_offered_file": {"config": offer}}},
    )
    reason = done.failure_text("open_offered_file")
    refused = "system" in reason and "blocked" in reason and not proof.exists()
    return [
        (
            "a poisoned model is refused for its content",
            refused,
            f"{file.name}: {reason or 'not refused'}",
        )
    ]


def _run_away(instance: dg.DagsterInstance) -> list[Outcome]:
    from secmon_dagster.orchestration.demo import execute

    done = execute(instance, "memory_limit_drill", user=USER)
    step = "allocate_without_end"
    stopped = done.failure_metadata(step).get("violation") == "memory_limit_exceeded"
    seen = done.failure_text(step) or f"run is {done.run.status.value}"
    return [("a runaway op is stopped at its limit", stopped, seen)]


def _drift(instance: dg.DagsterInstance) -> list[Outcome]:
    from secmon_dagster.database import transaction
    from secmon_dagster.orchestration.demo import execute, shifted_window, ticks

    model_id, outcomes, check_id = "breast_cancer", [], None
    # First rows as they should be: an alert that stands is told once, and this one lets it clear.
    for deviations, expected in ((0.0, "NORMAL"), (2.0, "CRITICAL")):
        rows = {"model_id": model_id, "path": str(shifted_window(model_id, deviations=deviations))}
        done = execute(
            instance,
            "drift_drill",
            user=USER,
            config={"ops": {"check_offered_window": {"config": rows}}},
        )
        with transaction() as connection:
            found = connection.execute(
                "SELECT check_id, alert_level, (metrics ->> 'max_psi')::float8 FROM drift_checks "
                "WHERE run_id = %s",
                (done.run.run_id,),
            ).fetchone()
        check_id, level, psi = found or (None, None, None)
        outcomes.append(
            (
                f"drift of rows shifted by {deviations:g} σ",
                level == expected,
                f"{model_id}: {level}, largest PSI {psi if psi is None else round(psi, 3)}"
                if found
                else f"{model_id}: no check: {done.failure_text('check_offered_window')}",
            )
        )
    if check_id is None:
        return outcomes
    said = ticks("drift_alert_sensor")
    # Not "check_id: …": YAML puts an id into quotes where it reads like a number (023e5…).
    ticked = check_id in said
    seen = f"asks for an alert run for {check_id}" if ticked else f"misses {check_id}: {said}"
    return [*outcomes, ("an alert sensor finds it", ticked, f"drift_alert_sensor {seen}")]


def _audit(scenes: _Scenes) -> None:
    from secmon_dagster.audit import HashChainAuditLogger, Query, get_audit_logger
    from secmon_dagster.orchestration.demo import copy_of_the_chain

    scenes.begin("Verifying the audit chain")
    chain = get_audit_logger()
    while chain.sequence():
        pass
    alerts = chain.find(Query(action="DRIFT_ALERT"))
    scenes.show(
        "the alert is in the audit chain",
        bool(alerts),
        f"entry {alerts[-1].seq}: DRIFT_ALERT {alerts[-1].resource_id}" if alerts else "no entry",
    )
    good = chain.verification()
    scenes.show(
        "the chain verifies",
        bool(good.to_dict()["valid"]),
        f"{good.verified_entries} of {good.total_entries} entries good, {good.break_count} breaks",
    )
    victim = max(1, good.total_entries // 2)
    with (
        copy_of_the_chain(tampered_seq=victim) as url,
        HashChainAuditLogger(url) as copy,
    ):
        bad = copy.verification()
    named = [finding.seq for finding in bad.invalid_entries]
    scenes.show(
        "tampering with one entry of a copy is detected",
        named == [victim],
        f"entry {victim} was changed; verification names {named}",
    )
