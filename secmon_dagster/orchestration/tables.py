"""What one asset hands to the next: tables as Parquet, references as JSON, never pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import orjson
import pandas as pd

from secmon_dagster.settings import get_settings
from secmon_dagster.training import whole_or_nothing


class TableIOManager(dg.ConfigurableIOManager):
    """Stores a ``DataFrame`` as Parquet and a ``dict`` as JSON under the home folder.

    A file appears whole or not at all, so a killed step leaves the last good value.
    """

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Store one value.

        Raises:
            TypeError: neither a DataFrame nor a dict.
        """
        path = self._path(context)
        if isinstance(obj, pd.DataFrame):
            with whole_or_nothing(path.with_suffix(".parquet")) as file:
                obj.to_parquet(file, index=False)
        elif isinstance(obj, dict):
            with whole_or_nothing(path.with_suffix(".json")) as file:
                file.write(orjson.dumps(obj))
        else:
            raise TypeError(
                f"{context.asset_key.to_user_string()} returned a {type(obj).__name__}; "
                "allowed: a pandas DataFrame or a dict of JSON values"
            )

    def load_input(self, context: dg.InputContext) -> Any:
        """Load what the upstream asset stored last.

        Raises:
            FileNotFoundError: it hasn't been materialised yet.
        """
        path = self._path(context)
        if path.with_suffix(".parquet").exists():
            return pd.read_parquet(path.with_suffix(".parquet"))
        if path.with_suffix(".json").exists():
            return orjson.loads(path.with_suffix(".json").read_bytes())
        raise FileNotFoundError(
            f"{context.asset_key.to_user_string()} has no value yet; materialise it first"
        )

    def _path(self, context: dg.OutputContext | dg.InputContext) -> Path:
        return get_settings().home.joinpath("tables", *context.asset_key.path)
