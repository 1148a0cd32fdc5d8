"""Read the rows a model is trained on or checked against."""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import IO
from urllib.parse import urlsplit

import httpx
import pandas as pd
import psycopg
from psycopg.types.numeric import FloatLoader
from upath import UPath

from secmon_dagster.database import Role, connect
from secmon_dagster.errors import ModelDefinitionError
from secmon_dagster.training.spec import DataSource


def load(source: DataSource, *, may_be_empty: bool = False) -> pd.DataFrame:
    """The source's rows.

    Args:
        may_be_empty: Whether a table without rows is an answer too.

    Returns:
        At least one row (unless it may be empty) and one column, columns named by strings.

    Raises:
        ModelDefinitionError: missing or empty file, unknown format, failing query, missing driver.
    """
    try:
        if source.sklearn is not None:
            frame = _bundled(source.sklearn)
        elif source.path is not None:
            frame = _file(source.path)
        else:
            assert source.sql is not None
            frame = _query(source.sql, source.url)
    except ImportError as missing:  # the driver of another store or database
        raise ModelDefinitionError(
            f"data {source} can't be read: {missing}",
            hint="Install that package beside secmon-dagster.",
        ) from None
    if frame.empty and not (may_be_empty and len(frame.columns)):
        raise ModelDefinitionError(
            f"data {source} has {len(frame)} rows and {len(frame.columns)} columns; "
            "allowed: at least one of each"
        )
    return frame.rename(columns=str)


def _bundled(name: str) -> pd.DataFrame:
    from sklearn import datasets

    frame: pd.DataFrame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    # "mean radius" and "od280/od315_of_diluted_wines" would be awkward in SQL, metrics and URLs.
    return frame.rename(columns=lambda c: c.replace(" ", "_").replace("/", "_"))


def _file(path: str) -> pd.DataFrame:
    suffix = PurePosixPath(path.partition("?")[0]).suffix.lower()
    try:
        with _open(path) as file:
            if suffix in (".parquet", ".pq"):
                return pd.read_parquet(file)
            if suffix in (".csv", ".tsv"):
                return pd.read_csv(file, sep="\t" if suffix == ".tsv" else ",")
    except pd.errors.EmptyDataError:
        raise ModelDefinitionError(
            f"data path {path} is empty; allowed: a header and rows"
        ) from None
    except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as unreadable:
        # pyarrow's and pandas' parse errors are ValueErrors
        reason = " ".join(str(unreadable).split())
        raise ModelDefinitionError(f"data path {path} can't be read: {reason}") from None
    raise ModelDefinitionError(
        f"data path {path} ends in {suffix or 'nothing'!r}; allowed: .csv, .tsv, .parquet, .pq"
    )


def _open(path: str) -> IO[bytes]:
    if urlsplit(path).scheme not in ("http", "https"):
        return UPath(path).open("rb")
    # fsspec would want aiohttp for it
    answer = httpx.get(path, follow_redirects=True, timeout=60)
    answer.raise_for_status()
    return io.BytesIO(answer.content)


def _query(sql: str, url: str | None) -> pd.DataFrame:
    import sqlalchemy  # half a second, and most sources are files

    try:
        if url is None:
            with connect(Role.SERVICE) as connection:
                connection.read_only = True
                connection.adapters.register_loader("numeric", FloatLoader)
                cursor = connection.execute(sql.encode())
                names = [column.name for column in cursor.description or ()]
                return pd.DataFrame(cursor.fetchall(), columns=names).infer_objects()
        with sqlalchemy.create_engine(url).connect() as session:
            return pd.read_sql(sqlalchemy.text(sql), session)
    except (sqlalchemy.exc.SQLAlchemyError, psycopg.Error) as failed:
        reason = " ".join(str(getattr(failed, "orig", failed)).split())
        raise ModelDefinitionError(f"data sql failed: {reason}") from None
