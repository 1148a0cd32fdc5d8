"""``secmon vecsec``: train, measure and ask the prompt-attack detector."""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from secmon_dagster.audit import enqueue
from secmon_dagster.database import transaction
from secmon_dagster.errors import DatabaseUnavailableError, InvalidInputError
from secmon_dagster.settings import Settings, get_settings
from secmon_dagster.vecsec import (
    DetectorModel,
    SecAgent,
    base_corpus,
    blind_test,
    conformal_threshold,
    evaluate,
    learning,
    patterns,
    read_rows,
    train,
    versions,
)
from secmon_dagster.vecsec.blind_test import BlindTestResult
from secmon_dagster.vecsec.events import record
from secmon_dagster.vecsec.inference import Budget, Rewording, configured, second_opinion
from secmon_dagster.vecsec.learning import give_feedback

app = typer.Typer(
    help="The prompt-attack detector.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    list[Path], typer.Option("--data", help='JSONL: {"text": …, "label": 0|1, "family": …}.')
]
ModelFile = Annotated[
    Path | None, typer.Option("--model", help="The detector's file; unset: the one in use.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BLOCK_EXIT = 4


def model_path(given: Path | None) -> Path:
    """The file of the detector: ``--model``, or the one under the home folder."""
    return given or versions.model_file()


def detector(given: Path | None) -> SecAgent:
    """The detector in use; the first call of all trains one on the base corpora."""
    path = model_path(given)
    if given is None and not path.exists():
        typer.echo("no detector yet: training one on the base corpora", err=True)
        return versions.in_use()
    return SecAgent.load(path)


@app.command("train")
def train_command(
    data: Data,
    model: ModelFile = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="JSONL of benign prompts the threshold is set on.")
    ] = None,
    rate: Annotated[float, typer.Option(help="False-alarm rate aimed at.")] = 0.01,
    as_json: AsJson = False,
) -> None:
    """Train a detector on the base corpora and FILEs, and put it into use.

    It passes the gate, is a version to roll back from, and its scores are watched. With --model it
    is only saved; so it is, with a warning, where no database answers.
    """
    trained = train([*base_corpus(), *read_rows(data)])
    if calibrate is not None:
        agent = SecAgent(trained)
        scores = [agent.score(row.text) for row in read_rows([calibrate]) if row.label == 0]
        trained = replace(
            trained,
            reference=np.array(scores, dtype=np.float32),
            flag=conformal_threshold(scores, rate).value,
            block=conformal_threshold(scores, rate / 10).value,
        )
    path = model_path(model)
    digest = trained.save(path) if model else _adopted(trained)
    summary = {"model": str(path), "sha256": digest, "families": len(trained.families),
               "flag": trained.flag, "block": trained.block}  # fmt: skip
    typer.echo(json.dumps(summary) if as_json else f"saved {path} (sha256 {digest})")


def _platform(user: str) -> versions.Platform:
    from secmon_dagster.orchestration.detector import platform  # half a second

    return platform(user)


def _adopted(trained: DetectorModel) -> str:
    user = user_of(get_settings())
    try:
        return versions.adopt(trained, user, _platform(user))
    except DatabaseUnavailableError as down:
        typer.echo(f"saved, but neither gated nor registered: {down.message}", err=True)
        return trained.save(versions.model_file())


@app.command("eval")
def eval_command(data: Data, model: ModelFile = None, as_json: AsJson = False) -> None:
    """Measure the detector on labelled FILEs."""
    agent = detector(model)
    rows = read_rows(data)
    if len({row.label for row in rows}) == 2:
        _print(evaluate(agent, rows, threshold=agent.flag), as_json)
        return
    if not rows:
        raise InvalidInputError.of("data", "no rows", "at least one row")
    alarms = sum(agent.score(row.text) > agent.flag for row in rows) / len(rows)
    what = "recall" if rows[0].label else "false_alarms"
    answer = {"prompts": len(rows), "threshold": agent.flag, what: alarms}
    typer.echo(json.dumps(answer) if as_json else f"{what} {alarms:.4f} of {len(rows)} prompts")


@app.command()
def analyze(
    text: Annotated[str, typer.Argument(help="The prompt; - reads standard input.")],
    model: ModelFile = None,
    as_json: AsJson = False,
) -> None:
    """The verdict on one prompt. Exit code 0 allow or flag, 4 block."""
    if text == "-":
        text = typer.get_text_stream("stdin", errors="replace").read()
    found = second_opinion(detector(model), configured(), text)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        typer.echo(f"{found.verdict} (probability {found.probability:.3f}, {found.attack_type})")
        if found.decided_by != "local":
            typer.echo(f"  decided by {found.decided_by}")
        for reason in found.reasons:
            typer.echo(f"  {reason}")
        if found.nearest is not None:
            typer.echo(f"  nearest {found.nearest.similarity:.2f}: {found.nearest.text[:80]!r}")
    if found.verdict == "block":
        raise typer.Exit(BLOCK_EXIT)


@app.command("blind-test")
def blind_test_command(
    blind_tests: Annotated[int, typer.Option(help="Number of prompts.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed asks the same prompts.")] = 0,
    families: Annotated[
        str, typer.Option(help="Base families to hold out instead, comma-separated.")
    ] = "",
    paraphrase: Annotated[
        bool, typer.Option(help="Have the inference service reword every attack.")
    ] = False,
    test_type: Annotated[str, typer.Option(help="Only 'blind'.")] = "blind",
    store: Annotated[bool, typer.Option(help="Keep the result in the database.")] = True,
    learn_misses: Annotated[
        bool,
        typer.Option(help="Hand what was missed to learning; those families stop being blind."),
    ] = False,
    model: ModelFile = None,
    as_json: AsJson = False,
) -> None:
    """Good versus evil, on families the detector has never seen."""
    if test_type != "blind":
        raise InvalidInputError.of("test-type", test_type, "blind")
    held_out = [name.strip() for name in families.split(",") if name.strip()]
    result = blind_test(
        detector(model),
        tests=blind_tests,
        seed=seed,
        held_out=held_out,
        paraphraser=_rewording() if paraphrase else None,
    )
    _print(result, as_json)
    if store:
        try:
            with transaction() as connection:
                record(connection, "blind_test", actor=user_of(get_settings()),
                       details=result.to_dict())  # fmt: skip
        except DatabaseUnavailableError as down:
            typer.echo(f"the result was not stored: {down.message}", err=True)
    if learn_misses:
        give_feedback([replace(row, source="blind-test") for row in result.missed])
        typer.echo(f"{len(result.missed)} misses handed to learning", err=True)


def _rewording() -> Rewording:
    client = configured()
    if client is None:
        raise InvalidInputError(
            "no inference service is set up", hint="Set BASETEN_API_KEY and BASETEN_MODEL_ID."
        )
    return Rewording(client)


@app.command()
def feedback(
    data: Data,
    source: Annotated[str | None, typer.Option(help="Who labelled them; unset: you.")] = None,
) -> None:
    """Keep the labels of FILEs for the next round of learning."""
    who = source or user_of(get_settings())
    typer.echo(f"{give_feedback([replace(r, source=who) for r in read_rows(data)])} labels kept")


@app.command()
def learn(as_json: AsJson = False) -> None:
    """Learn from feedback; prints a candidate to approve. Exit code 1 if it was rejected."""
    found = learning.learn(user_of(get_settings()), enqueue=enqueue)
    typer.echo(json.dumps(asdict(found)) if as_json else f"{found.version} {found.reason or 'ok'}")
    if not found.accepted:
        raise typer.Exit(1)


@app.command()
def approve(version: Annotated[str, typer.Argument(help="The candidate.")]) -> None:
    """Put a candidate into use and watch its scores, once the gate has read its file.

    Its author can't.
    """
    user = user_of(get_settings())
    versions.approve(version, user, _platform(user))
    typer.echo(f"{version} is in use")


@app.command()
def rollback() -> None:
    """Put the version that was in use before back."""
    user = user_of(get_settings())
    typer.echo(f"{versions.roll_back(user, _platform(user))} is in use again")


@app.command("patterns")
def patterns_command(
    retire_source: Annotated[
        str | None, typer.Option(help="Take back all patterns of this source.")
    ] = None,
    like: Annotated[str | None, typer.Option(help="The three most like this prompt.")] = None,
    as_json: AsJson = False,
) -> None:
    """The patterns learned."""
    with transaction() as connection:
        if retire_source is not None:
            typer.echo(f"{patterns.retire_source(connection, retire_source)} patterns retired")
            return
        if like is not None:
            for found in patterns.like(connection, versions.in_use().model.embedder, like):
                typer.echo(
                    json.dumps(asdict(found))
                    if as_json
                    else f"{found.similarity:.3f} {found.label} {found.text[:80]!r}"
                )
            return
        rows = patterns.active(connection)
    for row in rows:
        if as_json:
            typer.echo(json.dumps(asdict(row)))
        else:
            typer.echo(f"{row.label} {row.family:24} {row.source:16} {row.text[:80]!r}")


@app.command()
def credits(amount: Annotated[float, typer.Argument(help="Credits to add.")]) -> None:
    """Grant credits for the inference service; prints what there is."""
    if not 0 < amount <= 1e12:
        raise InvalidInputError.of("amount", amount, "above 0, up to 1e12")
    typer.echo(f"{Budget().grant(amount):g}")


def user_of(settings: Settings) -> str:
    """Who acts: SECMON_USER, or the login name."""
    return settings.user or getpass.getuser()


def _print(result: BlindTestResult, as_json: bool) -> None:
    fields: dict[str, Any] = result.to_dict()
    if as_json:
        typer.echo(json.dumps(fields))
        return
    for name, title in (
        ("auc", "AUC"),
        ("recall", "recall at 1 % false alarms"),
        ("hard_false_alarms", "false alarms on hard negatives"),
    ):
        number = fields[name]
        typer.echo(f"{title:32} {number['value']:.3f}  [{number['low']:.3f}, {number['high']:.3f}]")
    typer.echo(f"{'family':32} label prompts  at 1 %  at threshold")
    for family in result.by_family:
        typer.echo(
            f"{family.family:32} {family.label:5} {family.prompts:7}  {family.alarms:6.3f}  "
            f"{family.alarms_at_threshold:6.3f}"
        )
