"""``secmon drift``: configure, run, compare, read."""

from __future__ import annotations

import webbrowser
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from secmon_dagster import drift
from secmon_dagster.drift import history, registry
from secmon_dagster.drift.compare import FeatureDrift
from secmon_dagster.errors import InvalidInputError, NotFoundError
from secmon_dagster.settings import get_settings

app = typer.Typer(no_args_is_help=True, help="Drift checks: configure, run, compare, report.")
_out = Console(highlight=False, soft_wrap=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(help="Id of the model.")]


def read_table(path: Path) -> pd.DataFrame:
    """A CSV, TSV or Parquet file.

    Raises:
        NotFoundError: if there is no such file.
        InvalidInputError: for another format, or a file that can't be read as its own.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no file {path}")
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            return pd.read_parquet(path)
        if suffix in (".csv", ".tsv"):
            return pd.read_csv(path, sep="\t" if suffix == ".tsv" else ",")
    except (ValueError, OSError) as unreadable:
        raise InvalidInputError.of(
            str(path), f"unreadable ({type(unreadable).__name__})", f"a {suffix[1:]} file"
        ) from None
    raise InvalidInputError.of(str(path), f"a {suffix or 'nameless'} file", "csv, tsv or parquet")


def _print_json(body: Any) -> None:
    typer.echo(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())


def _thresholds(warning: float | None, critical: float | None) -> dict[str, float]:
    given = {"psi_warning": warning, "psi_critical": critical}
    return {name: value for name, value in given.items() if value is not None}


Warning_ = Annotated[float | None, typer.Option("--psi-warning", help="Default 0.1.")]
Critical = Annotated[float | None, typer.Option("--psi-critical", help="Default 0.25.")]


@app.command()
def compare(
    reference: Annotated[Path, typer.Argument(help="CSV or Parquet with the reference rows.")],
    current: Annotated[Path, typer.Argument(help="CSV or Parquet with the current rows.")],
    as_json: AsJson = False,
    features: Annotated[list[str] | None, typer.Option("--feature", help="Only these.")] = None,
    psi_warning: Warning_ = None,
    psi_critical: Critical = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report there.")] = None,
) -> None:
    """Compare two files, feature by feature. Needs no database."""
    baseline = drift.profile(read_table(reference))
    thresholds = _thresholds(psi_warning, psi_critical)
    report = drift.DriftDetector(baseline, thresholds, features).check(read_table(current))
    if html is not None:
        html.write_text(_page(report, current.name), encoding="utf-8")
    if as_json:
        _print_json(
            {
                **report.summary(),
                "level": report.level,
                "reason": report.reason,
                "extra_columns": report.extra_columns,
                "features": {each.feature: each.to_dict() for each in report.features},
            }
        )
        return
    _out.print(f"{report.overall_status}: {report.rows} rows against {report.baseline_rows}")
    _out.print(_feature_table(report.ranked()))


def _page(report: drift.DriftReport, name: str) -> str:
    from secmon_dagster.drift.report import html_page

    return html_page(
        report,
        model_id=name,
        version="",
        check_id="by hand",
        moment=datetime.now(UTC).isoformat(timespec="seconds"),
        thresholds=report.thresholds,
    )


def _feature_table(ranked: list[FeatureDrift]) -> Table:
    table = Table("feature", "level", "PSI", "KS", "W1 scaled", "missing", "note", box=None)
    for each in ranked:
        table.add_row(
            each.feature,
            str(each.level or "–"),
            *(
                "–" if value is None else f"{value:.4g}"
                for value in (each.psi, each.ks, each.wasserstein_scaled, each.missing_current)
            ),
            each.reason or "",
        )
    return table


@app.command()
def profile(
    model_id: Model,
    version: Annotated[str, typer.Argument(help="Version of the model.")],
    reference: Annotated[Path, typer.Argument(help="CSV or Parquet with the reference rows.")],
    replace: Annotated[bool, typer.Option(help="Replace a baseline that differs.")] = False,
) -> None:
    """Profile reference rows and store them as the baseline of a model version."""
    made = drift.profile(read_table(reference))
    stored = drift.save_baseline(model_id, version, made, replace=replace)
    _out.print(f"{model_id} {version}: {len(made.features)} features, {made.rows} rows, {stored}")


@app.command()
def configure(
    model_id: Model,
    version: Annotated[str, typer.Argument(help="Version of the model.")],
    schedule: Annotated[
        str, typer.Option(help="hourly, daily, weekly, or a cron expression in quotes.")
    ] = "daily",
    timezone: Annotated[str | None, typer.Option(help="IANA name.")] = None,
    window: Annotated[
        str | None, typer.Option(help='Window source as JSON, such as \'{"path": "…"}\'.')
    ] = None,
    features: Annotated[list[str] | None, typer.Option("--feature", help="Only these.")] = None,
    psi_warning: Warning_ = None,
    psi_critical: Critical = None,
    catch_up: Annotated[str, typer.Option(help="all, latest or skip.")] = "latest",
    enabled: bool = True,
) -> None:
    """Watch a model, or change how it is watched."""
    from secmon_dagster.drift.windows import WindowSource

    named = schedule in ("hourly", "daily", "weekly")
    try:
        source = None if window is None else WindowSource.of(orjson.loads(window)).to_dict()
    except (orjson.JSONDecodeError, TypeError, AttributeError):
        raise InvalidInputError.of("--window", window, "a JSON object") from None
    drift.get_drift_scheduler().configure_model(
        model_id,
        version,
        schedule if named else "custom",
        thresholds=_thresholds(psi_warning, psi_critical) or None,
        features_to_monitor=features,
        enabled=enabled,
        schedule_cron=None if named else schedule,
        timezone=timezone,
        catch_up=catch_up,
        source=None if source is None else {"window": source},
    )
    _out.print(f"{model_id} {version}: next check {registry.registered(model_id).next_due_local}")


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Watched models and when they are checked next."""
    schedules = drift.get_drift_scheduler().get_schedule()
    if as_json:
        _print_json(schedules)
        return
    table = Table("model", "version", "schedule", "next check", "enabled", box=None)
    for each in schedules["schedules"]:
        table.add_row(
            each["model_id"],
            each["model_version"],
            each["schedule_cron"] or each["schedule_interval"],
            each["next_run_time"],
            "yes" if each["enabled"] else "no",
        )
    _out.print(table)


@app.command()
def run(
    model_id: Model,
    current: Annotated[Path, typer.Argument(help="CSV or Parquet with the current rows.")],
    as_json: AsJson = False,
) -> None:
    """Check a watched model now. Exit code 1 if the check failed, 4 if drift is CRITICAL."""
    result = drift.get_drift_scheduler().run_scheduled(model_id, read_table(current))
    if as_json:
        _print_json(result.to_dict())
    else:
        said = result.error_message or result.reason or ""
        _out.print(f"{result.status} {result.alert_level or '–'} {result.check_id} {said}")
    if result.status is drift.ExecutionStatus.FAILED:
        raise typer.Exit(1)
    if result.alert_level == drift.AlertLevel.CRITICAL:
        raise typer.Exit(4)


@app.command("history")
def show_history(
    model_id: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    status: Annotated[str | None, typer.Option(help="Only this status.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """What was checked, newest first."""
    checks = drift.get_drift_scheduler().get_execution_history(model_id, status, limit)
    if as_json:
        _print_json([each.to_dict() for each in checks])
        return
    table = Table("check", "model", "version", "when", "status", "level", "note", box=None)
    for each in checks:
        table.add_row(
            each.check_id,
            each.model_id,
            each.model_version,
            each.timestamp,
            str(each.status),
            each.alert_level or "–",
            each.error_message or each.reason or "",
        )
    _out.print(table)


@app.command()
def stats(as_json: AsJson = False) -> None:
    """Totals over all models."""
    found = history.statistics()
    if as_json:
        _print_json(found)
        return
    for name, value in found.items():
        _out.print(f"{name}: {value}")


@app.command()
def report(
    check_id: Annotated[str, typer.Argument(help="Id of a check.")],
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    output: Annotated[Path | None, typer.Option(help="Where to write the page.")] = None,
) -> None:
    """The report of a check as one HTML page."""
    page, _ = history.report_page(check_id)
    path = output or get_settings().home / "reports" / "drift" / f"{check_id}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    _out.print(str(path.resolve()))
    if open_it:
        webbrowser.open(path.resolve().as_uri())
