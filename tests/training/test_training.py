from __future__ import annotations

import io
import resource
import subprocess
import sys
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pandas as pd
import pytest

from secmon_dagster import training
from secmon_dagster.errors import ModelDefinitionError, SecmonError
from secmon_dagster.training import DataSource, Estimator, ModelSpec


def spec(**changes) -> ModelSpec:
    values = {
        "model_id": "toy",
        "data": DataSource(path="toy.csv"),
        "estimator": Estimator(name="sklearn.linear_model.LogisticRegression"),
        **changes,
    }
    return ModelSpec(**values)


@pytest.fixture
def rows() -> pd.DataFrame:
    random = np.random.default_rng(7)
    number = random.normal(size=200)
    return pd.DataFrame(
        {
            "number": number,
            "colour": random.choice(["red", "green"], 200),
            "target": np.where(number + random.normal(0, 0.3, 200) > 0, "yes", "no"),
        }
    )


def trained(rows: pd.DataFrame, model: ModelSpec):
    table = training.split(training.select(rows, model), model)
    return training.train(table, model), table


# --- sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_file_of_each_format_is_read(tmp_path, rows, suffix):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=False)
    pd.testing.assert_frame_equal(training.load(DataSource(path=str(path))), rows)


def test_a_url_that_universal_pathlib_knows_is_read(rows):
    from upath import UPath

    with UPath("memory://bucket/rows.csv").open("w") as file:
        rows.to_csv(file, index=False)
    assert len(training.load(DataSource(path="memory://bucket/rows.csv"))) == 200


def test_a_query_runs_on_the_projects_own_postgres(database):
    frame = training.load(
        DataSource(sql="SELECT g AS number, g % 2 AS target FROM generate_series(1, 9) g")
    )
    assert list(frame.columns) == ["number", "target"] and len(frame) == 9


def test_a_querys_numeric_column_is_a_number(database):
    frame = training.load(DataSource(sql="SELECT avg(g) AS mean FROM generate_series(1, 4) g"))
    assert frame["mean"].tolist() == [2.5] and frame["mean"].dtype == float


def test_a_query_may_not_write(database):
    with pytest.raises(ModelDefinitionError, match="read-only transaction"):
        training.load(DataSource(sql="DELETE FROM models RETURNING *"))


def test_a_query_runs_on_a_url(tmp_path, rows):
    import sqlalchemy

    url = f"sqlite:///{tmp_path / 'rows.db'}"
    rows.to_sql("rows", sqlalchemy.create_engine(url), index=False)
    assert len(training.load(DataSource(sql="SELECT * FROM rows", url=url))) == 200


def test_a_file_is_read_over_http(tmp_path, rows):
    rows.to_csv(tmp_path / "rows.csv", index=False)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        pd.testing.assert_frame_equal(training.load(DataSource(path=f"{address}/rows.csv")), rows)
        with pytest.raises(ModelDefinitionError, match=r"absent.csv can't be read: .*404"):
            training.load(DataSource(path=f"{address}/absent.csv"))
        server.shutdown()


@pytest.mark.parametrize(
    "source",
    [{"path": "s3://bucket/rows.csv"}, {"sql": "SELECT 1", "url": "oracle://host/db"}],
)
def test_a_missing_driver_is_one_clear_sentence(source):
    with pytest.raises(ModelDefinitionError, match=r"can't be read: .*(s3fs|cx_Oracle)") as wrong:
        training.load(DataSource(**source))
    assert "Install that package" in wrong.value.diagnostics()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("absent.csv", None, "absent.csv can't be read"),
        ("empty.csv", b"", "is empty; allowed: a header and rows"),
        ("header.csv", b"a,b\n", "has 0 rows"),
        ("broken.parquet", b"no parquet", "broken.parquet can't be read"),
        ("rows.xlsx", b"x", "ends in '.xlsx'; allowed: .csv, .tsv, .parquet, .pq"),
    ],
)
def test_a_file_without_rows_is_one_clear_sentence(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelDefinitionError) as wrong:
        training.load(DataSource(path=str(tmp_path / name)))
    assert expected in wrong.value.message


def test_a_failing_query_is_one_clear_sentence(database):
    with pytest.raises(ModelDefinitionError, match='data sql failed: relation "nowhere" does not'):
        training.load(DataSource(sql="SELECT * FROM nowhere"))


# --- features -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "declared", "expected"),
    [
        ({}, {"features": ["number", "age"]}, "has no column age; it has number, colour, target"),
        ({}, {"target": "label"}, "has no column label"),
        ({}, {}, "feature colour is no number .* add `encode: {colour: onehot}`"),
        ({"target": "yes"}, {"features": ["number"]}, "target target has 1 distinct values"),
        ({"number": np.inf}, {"features": ["number"]}, "feature number has infinite values"),
        ({"number": np.nan}, {"features": ["number"]}, "feature number has no values at all"),
        ({"split": 1}, {"features": ["number", "split"]}, "column 'split' is the pipeline's own"),
        ({}, {"encode": {"color": "onehot"}}, "has no column color; it has number, colour"),
        (
            {"target": ["yes", 1] * 100},
            {"features": ["number"]},
            "target holds mixed-integer values",
        ),
        (
            {"target": pd.to_datetime(["2026-01-01", "2026-01-02"] * 100)},
            {"features": ["number"]},
            "target holds datetime values; allowed: all of them text, or numbers, or booleans",
        ),
    ],
)
def test_rows_that_do_not_fit_the_declaration_are_refused(rows, change, declared, expected):
    with pytest.raises(ModelDefinitionError, match=expected):
        training.select(rows.assign(**change), spec(**declared))


def test_a_column_that_is_there_twice_is_refused(rows):
    twice = pd.concat([rows, rows[["number"]]], axis=1)
    with pytest.raises(ModelDefinitionError, match="several columns called number"):
        training.select(twice, spec())


def test_rows_of_nothing_but_the_target_are_refused(rows):
    with pytest.raises(ModelDefinitionError, match="no column beside the target target"):
        training.select(rows[["target"]], spec())


def test_missing_values_are_refused_unless_imputed(rows):
    rows.loc[:4, "number"] = np.nan
    with pytest.raises(ModelDefinitionError, match="number has 5 missing values; set `impute"):
        training.select(rows, spec(features=["number"]))
    model, _ = trained(rows, spec(features=["number"], impute="median"))
    assert model.cross_validated_accuracy > 0.8


def test_missing_text_of_pandas_own_type_is_imputed(rows):
    texts = rows.assign(colour=rows["colour"].astype("string"))
    texts.loc[:4, "colour"] = pd.NA
    model, _ = trained(texts, spec(encode={"colour": "onehot"}, impute="most_frequent"))
    assert model.cross_validated_accuracy > 0.8


def test_a_class_without_held_out_rows_is_refused(rows):
    rows["target"] = [1] * 4 + [0] * 196
    model = spec(features=["number"], test_size=0.05, cross_validation=2)
    table = training.select(rows, model)
    with pytest.raises(ModelDefinitionError, match="no row of class '1' .* among the test rows"):
        training.split(table, model)


def test_a_class_of_one_row_is_refused(rows):
    rows.loc[0, "target"] = "maybe"
    with pytest.raises(ModelDefinitionError, match="class 'maybe' of target target has 1 rows"):
        training.select(rows, spec(features=["number"]))


def test_the_split_is_stratified_and_the_same_every_time(rows):
    model = spec(features=["number"])
    table = training.split(training.select(rows, model), model)
    again = training.split(training.select(rows, model), model)
    pd.testing.assert_frame_equal(table, again)
    shares = table.groupby("split")["target"].apply(lambda t: (t == "yes").mean())
    assert abs(shares["train"] - shares["test"]) < 0.02


# --- estimator ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ({"name": "sklearn.nowhere.Thing"}, "doesn't exist"),
        ({"name": "sklearn.linear_model.Nothing"}, "doesn't exist"),
        ({"name": "sklearn.base.clone"}, "is no scikit-learn estimator class"),
        ({"name": "sklearn.linear_model.LinearRegression"}, "is no classifier"),
        (
            {"name": "sklearn.linear_model.LogisticRegression", "parameters": {"c": 1}},
            "has no parameter c; it has .*C",
        ),
        (
            {"name": "sklearn.ensemble.BaggingClassifier", "parameters": {"estimator": "tree"}},
            "estimator sklearn.ensemble.BaggingClassifier: .*'str' object",
        ),
    ],
)
def test_an_unknown_estimator_is_refused(estimator, expected):
    with pytest.raises(ModelDefinitionError, match=expected):
        training.classifier(Estimator(**estimator))


def test_a_parameters_value_that_scikit_learn_refuses_is_told(rows):
    wrong = Estimator(name="sklearn.linear_model.LogisticRegression", parameters={"C": -1})
    with pytest.raises(ModelDefinitionError, match="'C' parameter"):
        trained(rows, spec(features=["number"], estimator=wrong))


def test_values_that_no_encoder_takes_are_told(rows):
    mixed = rows.assign(colour=["red", 1] * 100)
    with pytest.raises(ModelDefinitionError, match="uniformly strings or numbers"):
        trained(mixed, spec(encode={"colour": "onehot"}))


def test_more_folds_than_rows_of_a_class_are_refused(rows):
    few = pd.concat([rows[rows.target == "yes"].head(4), rows[rows.target == "no"]])
    with pytest.raises(ModelDefinitionError, match="cross_validation is 5; allowed: at most 3"):
        trained(few, spec(features=["number"]))


@pytest.mark.parametrize("encoder", ["onehot", "ordinal"])
def test_the_stored_model_takes_raw_text(rows, encoder):
    model, table = trained(rows, spec(encode={"colour": encoder}))
    unseen = pd.DataFrame({"number": [3.0, -3.0], "colour": ["blue", "red"]})
    assert list(model.pipeline.predict(unseen)) == ["yes", "no"]
    assert list(table.columns) == ["number", "colour", "target", "split"]


# --- evaluation -----------------------------------------------------------------------------------


def test_metrics_agree_with_scikit_learn(rows):
    from sklearn import metrics

    model = spec(features=["number"])
    fitted, table = trained(rows, model)
    found = training.evaluate(fitted.pipeline, table, model)
    test = table[table.split == "test"]
    predicted = fitted.pipeline.predict(test[["number"]])
    assert found.metrics["accuracy"] == metrics.accuracy_score(test.target, predicted)
    assert found.metrics["roc_auc"] == pytest.approx(
        metrics.roc_auc_score(
            test.target == "yes", fitted.pipeline.predict_proba(test[["number"]])[:, 1]
        )
    )
    assert found.confusion.sum() == len(test) == found.rows
    assert list(found.roc) == ["yes"]


def test_an_estimator_without_probabilities_is_evaluated_too(rows):
    model = spec(features=["number"], estimator=Estimator(name="sklearn.svm.LinearSVC"))
    fitted, table = trained(rows, model)
    found = training.evaluate(fitted.pipeline, table, model)
    assert np.allclose(found.scores.filter(like="probability_").sum(axis=1), 1)


def test_pictures_are_inline_png(rows):
    model = spec(features=["number"])
    fitted, table = trained(rows, model)
    found = training.evaluate(fitted.pipeline, table, model)
    for picture in (training.confusion_picture(found), training.roc_picture(found)):
        assert "](data:image/png;base64,iVBOR" in picture


# --- store ----------------------------------------------------------------------------------------


def test_a_model_comes_back_from_its_file_as_it_was(rows, home):
    model = spec(features=["number"])
    fitted, table = trained(rows, model)
    path = training.write_model(fitted.pipeline, "toy", "1")
    with path.open("rb") as file:
        loaded = training.load_model(file)
    inputs = table[["number"]]
    assert (loaded.predict_proba(inputs) == fitted.pipeline.predict_proba(inputs)).all()


def test_a_model_file_holds_no_pickle(rows, home):
    fitted, _ = trained(rows, spec(features=["number"]))
    path = training.write_model(fitted.pipeline, "toy", "1")
    with zipfile.ZipFile(path) as archive:
        assert {name.rpartition(".")[2] for name in archive.namelist()} <= {"json", "npy", "txt"}


def test_a_file_naming_other_types_is_not_loaded():
    import skops.io

    file = io.BytesIO(skops.io.dumps(subprocess.CompletedProcess([], 0)))
    with pytest.raises(SecmonError, match=r"subprocess\.CompletedProcess"):
        training.load_model(file)


def test_a_full_disk_is_one_clear_sentence_and_leaves_no_file(tmp_path):
    # A file-size limit stands in for a full disk: the same path through our code, for any user.
    program = (
        "import sys; from pathlib import Path\n"
        "from secmon_dagster.training import whole_or_nothing\n"
        "from secmon_dagster.errors import SecmonError\n"
        "try:\n"
        "    with whole_or_nothing(Path(sys.argv[1])) as f: f.write(b'x' * 10**6)\n"
        "except SecmonError as e: print(e)\n"
    )
    target = tmp_path / "models" / "m.skops"
    done = subprocess.run(
        [sys.executable, "-c", program, str(target)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.stdout.startswith(f"No space to store {target}")
    assert list(target.parent.iterdir()) == []
