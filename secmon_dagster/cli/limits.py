"""``secmon limits``: run any program in a box, propose limits from history, watch running steps."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from secmon_dagster.limits import ResourceLimits, run_boxed
from secmon_dagster.limits.box import BoxedResult
from secmon_dagster.limits.capabilities import BackendName
from secmon_dagster.limits.running import RunningBox, running_boxes
from secmon_dagster.limits.suggest import Suggestion, suggest
from secmon_dagster.limits.violation import ResourceUsage

app = typer.Typer(no_args_is_help=True, help="Limits on processes.", rich_markup_mode=None)

ENDED_AT_A_LIMIT = 122
"""Exit code of ``secmon limits run`` when a limit ended the program."""

_HISTORY = 50


@app.command(context_settings={"ignore_unknown_options": True})
def run(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after --.")],
    memory: Annotated[str | None, typer.Option(help="Such as 512MiB.")] = None,
    cpu: Annotated[float | None, typer.Option(help="Percent of one core.")] = None,
    time_limit: Annotated[str | None, typer.Option("--time", help="Such as 90s or 10m.")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes and threads.")] = None,
    network: Annotated[bool, typer.Option(help="Leave it a way to the network.")] = True,
    backend: Annotated[str, typer.Option(help="auto, cgroup2, cgroup1 or sampled.")] = "auto",
    hard: Annotated[bool, typer.Option(help="Refuse where limits can only be sampled.")] = False,
    max_output: Annotated[
        int, typer.Option(help="Bytes of each output that are kept.")
    ] = 1_000_000,
    report: Annotated[
        typer.FileTextWrite | None, typer.Option(help="Write a JSON report here ('-': stdout).")
    ] = None,
) -> None:
    """Run a program in a box.

    Prints its output when it is over. The exit code is the program's, 128 plus the signal that
    ended it, or 122 if a limit did.
    """
    limits = ResourceLimits.of(
        memory=memory, cpu=cpu, time=time_limit, processes=processes, network=network
    )
    chosen: BackendName = backend  # type: ignore[assignment]  # open_backend refuses other names
    # As Ctrl-C does: the program goes with this process.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        result = run_boxed(
            command, limits, backend=chosen, require_hard_limits=hard, max_output=max_output
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.stdout.buffer.write(result.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(result.stderr)
    sys.stderr.buffer.flush()
    if report is not None:
        report.write(json.dumps(_report(command, limits, result)) + "\n")
        report.flush()
    if result.violation is not None:
        typer.echo(f"{result.violation.type}: the program {result.violation.message}.", err=True)
        raise typer.Exit(ENDED_AT_A_LIMIT)
    code = 128 + result.signal if result.signal is not None else result.exit_code or 0
    raise typer.Exit(code)


@app.command("suggest")
def suggest_limits(
    job: Annotated[str, typer.Argument(help="Name of the job.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Propose limits for each op of a job from its last successful attempts."""
    found = [suggestion for suggestion in map(_suggestion, _ops(job)) if suggestion is not None]
    if not found:
        typer.echo(f"No successful step of a job called {job!r} is in step_usage yet.", err=True)
        raise typer.Exit(1)
    if as_json:
        for each in found:
            typer.echo(
                json.dumps(
                    {
                        "op": each.op_name,
                        "attempts": each.attempts,
                        "limits": each.limits.to_json(),
                    }
                )
            )
        return
    table = Table("op", "attempts", "peak memory", "longest", "CPU", "proposal")
    for each in found:
        peak, cpu = each.highest_memory_mb, each.highest_cpu_percent
        table.add_row(
            each.op_name,
            str(each.attempts),
            "?" if peak is None else f"{peak:.0f} MB",
            f"{each.longest_seconds:.1f} s",
            "?" if cpu is None else f"{cpu:.0f} %",
            each.as_code(),
        )
    Console().print(table)


@app.command()
def top(
    once: Annotated[bool, typer.Option(help="Print once instead of keeping on.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between looks.")] = 1.0,
) -> None:
    """Running boxes against their limits. Sampled boxes have no group to read and don't appear."""
    console = Console()
    if once:
        console.print(_table(running_boxes(), {}, interval))
        return
    before: dict[tuple[int, str], float] = {}
    with Live(console=console, auto_refresh=False) as live:
        while True:
            boxes = running_boxes()
            live.update(_table(boxes, before, interval), refresh=True)
            before = {(box.owner, box.name): box.cpu_seconds or 0.0 for box in boxes}
            time.sleep(interval)


def _table(boxes: list[RunningBox], before: dict[tuple[int, str], float], interval: float) -> Table:
    table = Table("run's pid", "box", "memory", "limit", "CPU", "limit", "processes", "limit")
    for box in boxes:
        last = before.get((box.owner, box.name))
        used = box.cpu_seconds
        percent = None if last is None or used is None else 100 * (used - last) / interval
        table.add_row(
            str(box.owner),
            box.name,
            _mb(box.memory),
            _mb(box.memory_limit),
            "" if percent is None else f"{percent:.0f} %",
            "none" if box.cpu_limit_percent is None else f"{box.cpu_limit_percent:.0f} %",
            str(box.processes if box.processes is not None else "?"),
            str(box.processes_limit if box.processes_limit is not None else "none"),
        )
    return table


def _mb(size: int | None) -> str:
    # Version 1 writes "no limit" as a number near 2^63.
    return "none" if size is None or size > 2**60 else f"{size / 2**20:.0f} MB"


def _report(command: list[str], limits: ResourceLimits, result: BoxedResult) -> dict[str, object]:
    return {
        "command": command,
        "limits": limits.to_json(),
        "enforcement": result.enforcement,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "truncated": result.truncated,
        "violation": None if result.violation is None else result.violation.to_dict(),
        "warnings": [warning.to_dict() for warning in result.warnings],
        "usage": result.usage.to_dict(),
    }


def _ops(job: str) -> list[tuple[str, str]]:
    from secmon_dagster.database import Role, transaction

    with transaction(Role.SERVICE) as connection:
        rows = connection.execute(
            "SELECT DISTINCT op_name FROM step_usage"
            " WHERE job_name = %s AND outcome = 'success' ORDER BY op_name",
            [job],
        ).fetchall()
    return [(job, str(name)) for (name,) in rows]


def _suggestion(job_and_op: tuple[str, str]) -> Suggestion | None:
    from secmon_dagster.database import Role, transaction

    with transaction(Role.SERVICE) as connection:
        rows = connection.execute(
            "SELECT wall_seconds, cpu_seconds, peak_memory_bytes FROM step_usage"
            " WHERE job_name = %s AND op_name = %s AND outcome = 'success'"
            " ORDER BY ended_at DESC LIMIT %s",
            [*job_and_op, _HISTORY],
        ).fetchall()
    history = [
        ResourceUsage(wall_seconds=wall, cpu_seconds=cpu, peak_memory_bytes=peak)
        for wall, cpu, peak in rows
    ]
    return suggest(job_and_op[1], history)
