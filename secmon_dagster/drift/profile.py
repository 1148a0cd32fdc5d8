"""A baseline: what is kept of the reference data, once, so that no check reads it again.

Per numeric feature: the psi-v1 cuts, rows per cell, moments and the sorted values (up to 100,000;
of a longer reference that many evenly spaced order statistics, and ``exact`` says so). Per
categorical feature: rows per category. A profile is a value: it goes to JSON and back without loss
and has a content hash.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

from secmon_dagster.drift.columns import (
    NumericColumn,
    as_columns,
    kind_of,
    read_categorical,
    read_datetime,
    read_numeric,
)
from secmon_dagster.drift.dispersion import Codes, Dispersion, dispersion
from secmon_dagster.drift.statistics.psi import DEFINITION, count_cells, numeric_cuts
from secmon_dagster.drift.statistics.wasserstein import moments, robust_scale
from secmon_dagster.drift.vocabulary import FeatureKind
from secmon_dagster.errors import InvalidInputError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

SAMPLE_ROWS = 100_000


@dataclass(frozen=True, eq=False)
class NumericCells:
    """A numeric or datetime feature: ``cuts`` ``(k,)``, ``counts`` ``(k+1,)``, sorted values."""

    cuts: Floats
    counts: Counts
    ordered: Floats
    exact: bool
    mean: float
    std: float
    scale: float | None

    @classmethod
    def of(cls, values: Floats) -> NumericCells:
        """Profile finite values, shape ``(n,)``, n >= 1."""
        ordered = np.sort(values)
        cuts = numeric_cuts(ordered)
        mean, std = moments(ordered)
        kept = thin(ordered, SAMPLE_ROWS)
        return cls(
            cuts=cuts,
            counts=count_cells(ordered, cuts, ordered=True),
            ordered=kept,
            exact=len(kept) == len(ordered),
            mean=mean,
            std=std,
            scale=robust_scale(ordered),
        )


def thin(ordered: Floats, rows: int) -> Floats:
    """At most ``rows`` evenly spaced order statistics of ascending values, both ends included."""
    if len(ordered) <= rows:
        return ordered
    return ordered[np.round(np.linspace(0, len(ordered) - 1, rows)).astype(np.intp)]


@dataclass(frozen=True, eq=False)
class FeatureProfile:
    """One feature of a baseline.

    ``read_as`` is how it is compared, ``kind`` what the column was: they differ where whole
    numbers are declared categories. ``numeric`` is None for categories and for a column without
    any value; ``categories`` is empty for numbers. ``dispersion`` is None unless rows that follow
    one another are alike.
    """

    feature: str
    kind: FeatureKind
    read_as: FeatureKind
    rows: int
    missing: int
    numeric: NumericCells | None = None
    categories: Mapping[str, int] = field(default_factory=dict)
    dispersion: Dispersion | None = None

    @property
    def present(self) -> int:
        """Rows that have a value."""
        return self.rows - self.missing

    def summary(self) -> dict[str, Any]:
        """Everything but the sorted values, as JSON types."""
        body: dict[str, Any] = {
            "feature": self.feature,
            "kind": str(self.kind),
            "read_as": str(self.read_as),
            "rows": self.rows,
            "missing": self.missing,
            "categories": dict(sorted(self.categories.items())),
        }
        if self.dispersion is not None:
            body["dispersion"] = self.dispersion.to_json()
        if self.numeric is not None:
            body["numeric"] = {
                "cuts": self.numeric.cuts.tolist(),
                "counts": self.numeric.counts.tolist(),
                "exact": self.numeric.exact,
                "mean": self.numeric.mean,
                "std": self.numeric.std,
                "scale": self.numeric.scale,
                "ordered_rows": len(self.numeric.ordered),
                "ordered_sha256": hashlib.sha256(_little_endian(self.numeric.ordered)).hexdigest(),
            }
        return body

    def packed_values(self) -> bytes:
        """The sorted values, compressed; empty for categories."""
        if self.numeric is None:
            return b""
        # Doubles hardly shrink, so the cheapest level gets all there is to get.
        return zlib.compress(_little_endian(self.numeric.ordered), 1)

    @classmethod
    def restore(cls, summary: Mapping[str, Any], packed: bytes) -> FeatureProfile:
        """The profile that :meth:`summary` and :meth:`packed_values` came from.

        Raises:
            InvalidInputError: if the values are not those the summary was made of.
        """
        numeric = None
        if (cells := summary.get("numeric")) is not None:
            raw = zlib.decompress(packed)
            if hashlib.sha256(raw).hexdigest() != cells["ordered_sha256"]:
                raise InvalidInputError.of(
                    f"baseline of {summary['feature']}", "values of another hash", "its own values"
                )
            numeric = NumericCells(
                cuts=np.asarray(cells["cuts"], dtype=np.float64),
                counts=np.asarray(cells["counts"], dtype=np.int64),
                ordered=np.frombuffer(raw, dtype="<f8"),
                exact=bool(cells["exact"]),
                mean=float(cells["mean"]),
                std=float(cells["std"]),
                scale=cells["scale"],
            )
        return cls(
            feature=summary["feature"],
            kind=FeatureKind(summary["kind"]),
            read_as=FeatureKind(summary["read_as"]),
            rows=int(summary["rows"]),
            missing=int(summary["missing"]),
            numeric=numeric,
            categories={str(key): int(count) for key, count in summary["categories"].items()},
            dispersion=None
            if (found := summary.get("dispersion")) is None
            else Dispersion.from_json(found),
        )


def _little_endian(values: Floats) -> bytes:
    return values.astype("<f8", copy=False).tobytes()


def profile_feature(
    values: pd.Series, feature: str, read_as: FeatureKind | None = None
) -> FeatureProfile:
    """Profile one column; its kind is inferred, and how it is compared too unless given.

    Raises:
        InvalidInputError: if the values can't be read that way.
    """
    kind = kind_of(values, feature) if read_as is None else _kind_or(values, feature, read_as)
    read_as = read_as or kind
    if read_as is FeatureKind.CATEGORICAL:
        found = read_categorical(values, feature)
        # In one order, so that a restored profile gives the very same sums.
        categories = dict(sorted(found.counts.items()))
        return FeatureProfile(
            feature, kind, read_as, len(values), found.missing, categories=categories,
            dispersion=dispersion(category_codes(values)),
        )  # fmt: skip
    column = read_ordered(values, feature, read_as)
    if not len(column.values):
        return FeatureProfile(feature, kind, read_as, len(values), column.missing)
    cells = NumericCells.of(column.values)
    return FeatureProfile(
        feature, kind, read_as, len(values), column.missing, numeric=cells,
        dispersion=dispersion(cell_codes(column.values, cells.cuts)),
    )  # fmt: skip


def cell_codes(values: Floats, cuts: Floats) -> Codes:
    """The cell of each value, in their order."""
    return np.searchsorted(cuts, values, side="left")


def category_codes(values: pd.Series) -> Codes:
    """A number per category, for each row that has one, in their order."""
    codes = pd.factorize(values)[0]
    return np.asarray(codes[codes >= 0], dtype=np.intp)


def _kind_or(values: pd.Series, feature: str, otherwise: FeatureKind) -> FeatureKind:
    """The inferred kind; for a column of mixed values the declared one (texts count as such)."""
    try:
        return kind_of(values, feature)
    except InvalidInputError:
        if otherwise is FeatureKind.CATEGORICAL:
            return otherwise
        raise


def read_ordered(values: pd.Series, feature: str, read_as: FeatureKind) -> NumericColumn:
    """Finite numbers, or instants as seconds; in the column's order."""
    if read_as is FeatureKind.DATETIME:
        return read_datetime(values, feature)
    return read_numeric(values, feature)


@dataclass(frozen=True, eq=False)
class BaselineProfile:
    """All features of a model version's reference data, and of its outputs on that data."""

    features: Mapping[str, FeatureProfile]
    outputs: Mapping[str, FeatureProfile] = field(default_factory=dict)
    definition: str = DEFINITION

    @property
    def rows(self) -> int:
        """Rows of the reference (of its longest column)."""
        return max((feature.rows for feature in self.features.values()), default=0)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the summaries in canonical JSON; the sorted values enter by their hash."""
        content = {
            "definition": self.definition,
            "features": {name: each.summary() for name, each in self.features.items()},
            "outputs": {name: each.summary() for name, each in self.outputs.items()},
        }
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """JSON types, sorted values as base64 of compressed little-endian float64."""
        return {
            "definition": self.definition,
            "content_hash": self.content_hash,
            "features": [_feature_json(each) for each in self.features.values()],
            "outputs": [_feature_json(each) for each in self.outputs.values()],
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> BaselineProfile:
        """The profile :meth:`to_json` came from.

        Raises:
            InvalidInputError: for another definition or contents that do not match the hash.
        """
        if body.get("definition") != DEFINITION:
            raise InvalidInputError.of("baseline definition", body.get("definition"), DEFINITION)
        features = [_feature_from_json(each) for each in body["features"]]
        outputs = [_feature_from_json(each) for each in body["outputs"]]
        restored = cls(
            {each.feature: each for each in features}, {each.feature: each for each in outputs}
        )
        if restored.content_hash != body["content_hash"]:
            raise InvalidInputError.of("baseline", "contents of another hash", "its own contents")
        return restored

    def select(self, features: Iterable[str] | None) -> BaselineProfile:
        """The same baseline with these features only.

        Raises:
            InvalidInputError: for a feature it does not have.
        """
        if features is None:
            return self
        wanted = list(features)
        unknown = [name for name in wanted if name not in self.features]
        if unknown:
            raise InvalidInputError.of(
                "features_to_monitor", ", ".join(unknown), ", ".join(self.features) or "none"
            )
        return BaselineProfile({name: self.features[name] for name in wanted}, self.outputs)


def _feature_json(each: FeatureProfile) -> dict[str, Any]:
    return {**each.summary(), "values": base64.b64encode(each.packed_values()).decode("ascii")}


def _feature_from_json(body: Mapping[str, Any]) -> FeatureProfile:
    return FeatureProfile.restore(body, base64.b64decode(body["values"]))


def profile(
    data: Any, *, outputs: Any = None, kinds: Mapping[str, FeatureKind | str] | None = None
) -> BaselineProfile:
    """Profile reference data.

    Args:
        data: A DataFrame, or a mapping of columns.
        outputs: The model's scores or predicted classes on that data: a mapping of columns, a
            DataFrame, or one sequence (then called ``prediction``).
        kinds: How to compare certain features where inference would choose otherwise.

    Raises:
        InvalidInputError: naming the column that can't be read, or if there are no columns.
    """
    columns = as_columns(data, "baseline")
    if not columns:
        raise InvalidInputError.of("baseline", "no columns", "at least one")
    chosen = {name: FeatureKind(kind) for name, kind in (kinds or {}).items()}
    return BaselineProfile(
        {name: profile_feature(each, name, chosen.get(name)) for name, each in columns.items()},
        {name: profile_feature(each, name) for name, each in output_columns(outputs).items()},
    )


def output_columns(outputs: Any) -> dict[str, pd.Series]:
    """Outputs as columns; a bare sequence becomes the column ``prediction``."""
    if outputs is None:
        return {}
    if isinstance(outputs, Mapping | pd.DataFrame):
        return as_columns(outputs, "outputs")
    return as_columns({"prediction": outputs}, "outputs")
