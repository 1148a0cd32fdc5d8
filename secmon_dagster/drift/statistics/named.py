"""PSI and KL as small objects: fitted to a reference, then asked about any number of windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from secmon_dagster.drift.columns import as_series, read_numeric
from secmon_dagster.drift.statistics.divergence import kl_divergence
from secmon_dagster.drift.statistics.psi import count_cells, numeric_cuts, psi
from secmon_dagster.errors import InvalidInputError


class _CellStatistic:
    """Cells of a numeric reference and the rows in each."""

    def __init__(self, reference: Any) -> None:
        values = read_numeric(as_series(reference, "reference"), "reference").values
        if len(values) == 0:
            raise InvalidInputError.of("reference", "no finite value", "at least one")
        self.cuts = numeric_cuts(np.sort(values))
        self.counts = count_cells(values, self.cuts)

    def _count(self, current: Any) -> Any:
        values = read_numeric(as_series(current, "current"), "current").values
        if len(values) == 0:
            raise InvalidInputError.of("current", "no finite value", "at least one")
        return count_cells(values, self.cuts)


class PopulationStabilityIndex(_CellStatistic):
    """PSI, definition ``psi-v1``, of windows against one numeric reference.

    >>> round(PopulationStabilityIndex(range(100)).calculate(range(20, 120)), 3)
    1.6
    """

    def calculate(self, current: Any) -> float:
        """The PSI of a window; see :func:`secmon_dagster.drift.compare` for what it means.

        Raises:
            InvalidInputError: without a finite value.
        """
        return psi(self.counts, self._count(current))


class KLDivergence(_CellStatistic):
    """KL(reference ‖ window) in nats on the same cells.

    >>> KLDivergence(range(100)).calculate(range(100))
    0.0
    """

    def calculate(self, current: Any) -> float:
        """The divergence of a window.

        Raises:
            InvalidInputError: without a finite value.
        """
        return kl_divergence(self.counts, self._count(current))
