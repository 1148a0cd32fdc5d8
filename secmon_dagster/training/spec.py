"""What a model is, as its YAML declares it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from croniter import croniter
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from secmon_dagster.errors import ModelDefinitionError

COMPONENT_TYPE = "secmon_dagster.MonitoredModel"

_ENVIRONMENT = re.compile(r"\{\{\s*env\.(\w+)\s*\}\}")
_MODEL_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")


def _model_id(value: str) -> str:
    if not _MODEL_ID.fullmatch(value):
        raise ValueError("allowed: a-z, 0-9 and _, starting with a letter, at most 63 characters")
    return value


class _Declared(BaseModel):
    """A block of YAML: no unknown keys, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSource(_Declared):
    """Where rows come from: exactly one of the three."""

    sklearn: Literal["breast_cancer", "digits", "iris", "wine"] | None = Field(
        default=None, description="A data set bundled with scikit-learn."
    )
    path: str | None = Field(
        default=None, description="A CSV or Parquet file: a path or a URL universal-pathlib knows."
    )
    sql: str | None = Field(
        default=None, description="A query, run read-only on the project's PostgreSQL or on `url`."
    )
    url: str | None = Field(default=None, description="SQLAlchemy URL that `sql` runs on.")

    @model_validator(mode="after")
    def _exactly_one(self) -> DataSource:
        given = [name for name in ("sklearn", "path", "sql") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"needs exactly one of sklearn, path and sql; found {found}")
        if self.url is not None and self.sql is None:
            raise ValueError("url goes with sql only")
        return self

    def __str__(self) -> str:
        if self.sklearn is not None:
            return f"sklearn:{self.sklearn}"
        return self.path if self.path is not None else f"sql:{self.sql}"


class Estimator(_Declared):
    """A scikit-learn classifier by its dotted name."""

    name: str = Field(
        pattern=r"^sklearn(\.[A-Za-z_][A-Za-z0-9_]*)+$",
        description="For example sklearn.linear_model.LogisticRegression.",
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of its constructor."
    )


class Limits(_Declared):
    """Resource limits of each step of this model."""

    memory: str = "1GiB"
    time: str = "10m"
    cpu: float = Field(default=100, gt=0, le=100, description="Percent of one core.")


class Outcomes(_Declared):
    """Which columns of a window are no features but what became of them."""

    score: str | None = Field(default=None, description="Probability of the class `positive`.")
    prediction: str | None = Field(default=None, description="Class; unset: by a score of 0.5.")
    label: str | None = Field(default=None, description="True class; empty while not known.")
    positive: str | int | float | bool = Field(default=1, description="The class selected.")
    strata: list[str] = Field(default_factory=list, description="Columns to compare groups by.")


class Drift(_Declared):
    """How the model is watched once it is released."""

    schedule: str = Field(
        default="daily", description="hourly, daily, weekly, or a cron expression of five fields."
    )
    window: DataSource | None = Field(
        default=None, description="Where a check's current rows come from."
    )
    columns: Outcomes | None = Field(
        default=None, description="Performance and bias; `score` is compared with the held-out one."
    )
    psi_warning: float = Field(default=0.1, gt=0, le=10)
    psi_critical: float = Field(default=0.25, gt=0, le=10)
    enabled: bool = True

    @field_validator("schedule")
    @classmethod
    def _schedule_is_known(cls, value: str) -> str:
        # croniter knows more than five fields and @-names; Dagster doesn't.
        cron = len(value.split()) == 5 and croniter.is_valid(value)
        if value not in ("hourly", "daily", "weekly") and not cron:
            raise ValueError("allowed: hourly, daily, weekly, or a cron expression of five fields")
        return value

    @model_validator(mode="after")
    def _thresholds_ascend(self) -> Drift:
        if self.psi_warning >= self.psi_critical:
            raise ValueError(
                f"psi_warning {self.psi_warning} must be below psi_critical {self.psi_critical}"
            )
        return self


class ModelSpec(_Declared):
    """One model: its data, its estimator, and how it is guarded."""

    model_id: Annotated[str, AfterValidator(_model_id)]
    description: str = ""
    owners: list[str] = Field(default_factory=list, description="E-mail addresses or team:name.")
    data: DataSource
    target: str = Field(default="target", description="Column that is predicted.")
    features: list[str] | None = Field(
        default=None, min_length=1, description="Columns used; all but the target by default."
    )
    encode: dict[str, Literal["onehot", "ordinal"]] = Field(
        default_factory=dict, description="Encoder of each feature that is not a number."
    )
    impute: Literal["mean", "median", "most_frequent"] | None = Field(
        default=None, description="How missing values are filled; unset means they are an error."
    )
    estimator: Estimator
    scale: bool = Field(default=True, description="Standardise numeric features.")
    test_size: float = Field(default=0.25, gt=0.0, lt=1.0)
    cross_validation: int = Field(default=5, ge=2, le=50, description="Folds, stratified.")
    random_state: int = Field(default=42, ge=0, lt=2**32)
    require_approval: bool = Field(
        default=False, description="Release waits for a person other than who trained."
    )
    limits: Limits = Limits()
    drift: Drift = Drift()

    @field_validator("features")
    @classmethod
    def _features_are_listed_once(cls, value: list[str] | None) -> list[str] | None:
        doubled = sorted({name for name in value or () if (value or []).count(name) > 1})
        if doubled:
            raise ValueError(f"lists {', '.join(doubled)} more than once")
        return value

    @model_validator(mode="after")
    def _target_is_no_feature(self) -> ModelSpec:
        if self.features is not None and self.target in self.features:
            raise ValueError(f"target {self.target!r} is listed among features")
        unknown = set(self.encode) - set(self.features or self.encode)
        if unknown:
            raise ValueError(f"encode names {sorted(unknown)}, which features doesn't list")
        return self


def read_spec(file: Path) -> ModelSpec:
    """Read and check one ``defs.yaml``.

    Raises:
        ModelDefinitionError: one line for each mistake, with its line number.
    """
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except OSError as unreadable:
        raise ModelDefinitionError(f"{file}: {unreadable.strerror}") from None
    except yaml.YAMLError as broken:
        raise ModelDefinitionError(
            f"{file}: no valid YAML: {' '.join(str(broken).split())}"
        ) from None
    if not isinstance(document, dict) or document.get("type") != COMPONENT_TYPE:
        found = document.get("type") if isinstance(document, dict) else document
        raise ModelDefinitionError(f"{file}:1: type is {found!r}; allowed: {COMPONENT_TYPE}")
    try:
        return ModelSpec.model_validate(document.get("attributes") or {})
    except ValidationError as invalid:
        mistakes = [
            f"{file}:{_line(node, ('attributes', *error['loc']))}: "
            f"{'.'.join(str(part) for part in error['loc']) or 'attributes'}: "
            f"{_sentence(error)}"
            for error in invalid.errors()
        ]
        raise ModelDefinitionError("\n".join(mistakes)) from None


def read_specs(folder: Path) -> list[ModelSpec]:
    """Every model declared in ``folder``, one subfolder each; other components are passed over.

    Raises:
        ModelDefinitionError: one line for each mistake in any of them.
    """
    specs, mistakes = [], []
    for file in sorted(folder.glob("*/defs.yaml")):
        try:
            if COMPONENT_TYPE not in file.read_text(errors="replace"):
                continue  # another component, which is Dagster's to read
            specs.append(read_spec(file))
        except ModelDefinitionError as error:
            mistakes.append(error.message)
    if mistakes:
        raise ModelDefinitionError(
            "\n".join(mistakes), hint="Mend it, or take its folder away; then start again."
        )
    return specs


def filled(spec: ModelSpec) -> ModelSpec:
    """With ``{{ env.NAME }}`` replaced, as the component does when the code location loads.

    Raises:
        ModelDefinitionError: such a variable isn't set.
    """

    def value(found: re.Match[str]) -> str:
        try:
            return json.dumps(os.environ[found[1]])[1:-1]
        except KeyError:
            raise ModelDefinitionError(
                f"model {spec.model_id}: environment variable {found[1]} isn't set"
            ) from None

    return ModelSpec.model_validate_json(_ENVIRONMENT.sub(value, spec.model_dump_json()))


def _sentence(error: Any) -> str:
    message: str = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(error["loc"]))
        return f"no such key; allowed: {known}"
    if error["type"] == "missing":
        return "is missing"
    shown = repr(error["input"])
    return f"is {shown if len(shown) <= 80 else shown[:77] + '...'}: {message}"


def _known_keys(location: tuple[int | str, ...]) -> Iterator[str]:
    """The keys allowed in the block an unknown key was found in."""
    block: Any = ModelSpec
    for part in location[:-1]:
        annotation = block.model_fields[part].annotation
        block = next(
            kind
            for kind in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
    yield from block.model_fields


def _line(node: yaml.Node | None, path: tuple[int | str, ...]) -> int:
    """The line of the deepest node on ``path`` that exists, counted from 1."""
    line = 1
    for part in path:
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in node.value:
            if key.value == part:
                line, node = key.start_mark.line + 1, value
                break
        else:
            break
    return line
