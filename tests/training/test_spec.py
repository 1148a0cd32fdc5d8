from __future__ import annotations

import pytest

from secmon_dagster.errors import ModelDefinitionError
from secmon_dagster.settings import PROJECT_ROOT
from secmon_dagster.training import read_spec

GOOD = """\
type: secmon_dagster.MonitoredModel
attributes:
  model_id: churn
  data: {path: churn.csv}
  estimator: {name: sklearn.linear_model.LogisticRegression}
"""


def test_fifteen_lines_of_yaml_are_a_model(tmp_path):
    file = tmp_path / "defs.yaml"
    file.write_text(GOOD)
    spec = read_spec(file)
    assert (spec.model_id, spec.target, spec.cross_validation) == ("churn", "target", 5)


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_the_shipped_models_are_valid_and_short(name):
    file = PROJECT_ROOT / "secmon_dagster" / "defs" / "models" / name / "defs.yaml"
    assert read_spec(file).model_id == name
    assert len(file.read_text().splitlines()) <= 17


@pytest.mark.parametrize(
    ("line", "written", "expected"),
    [
        (3, "  model_id: Bad Name", "model_id: is 'Bad Name': allowed: a-z"),
        (3, "  modelid: churn", "modelid: no such key; allowed: model_id,"),
        (4, "  data: {pth: x.csv}", "data.pth: no such key; allowed: sklearn, path, sql, url"),
        (4, "  data: {}", "data: is {}: needs exactly one of sklearn, path and sql"),
        (4, "  data: {path: a.csv, sql: SELECT 1}", "found path and sql"),
        (4, "  data: {path: a.csv, url: 'sqlite://'}", "url goes with sql only"),
        (5, "  features: [a, b, a]", "features: is ['a', 'b', 'a']: lists a more than once"),
        (4, "  data: {sklearn: mnist}", "data.sklearn: is 'mnist'"),
        (5, "  estimator: {name: os.system}", "estimator.name: is 'os.system'"),
        (5, "  estimator: {}", "estimator.name: is missing"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path, line, written, expected):
    lines = GOOD.splitlines()
    lines[line - 1] = written
    file = tmp_path / "defs.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(ModelDefinitionError) as wrong:
        read_spec(file)
    mistakes = [m for m in wrong.value.message.splitlines() if expected in m]
    assert mistakes and mistakes[0].startswith(f"{file}:{line}: ")


def test_every_mistake_is_told_at_once(tmp_path):
    file = tmp_path / "defs.yaml"
    file.write_text(GOOD + "  test_size: 2\n  cross_validation: 1\n")
    with pytest.raises(ModelDefinitionError) as wrong:
        read_spec(file)
    assert [m.partition(": ")[0] for m in wrong.value.message.splitlines()] == [
        f"{file}:6",
        f"{file}:7",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "type is None"),
        ("- a list", "allowed: secmon_dagster.MonitoredModel"),
        ("type: other.Thing", "type is 'other.Thing'"),
        ("type: [unclosed", "no valid YAML"),
    ],
)
def test_a_file_that_is_no_model_says_so(tmp_path, text, expected):
    file = tmp_path / "defs.yaml"
    file.write_text(text)
    with pytest.raises(ModelDefinitionError, match=expected.replace("[", r"\[")):
        read_spec(file)


@pytest.mark.parametrize("schedule", ["often", "@daily", "* * * *", "61 * * * *", "* * * * * *"])
def test_a_schedule_that_is_none_is_refused(tmp_path, schedule):
    file = tmp_path / "defs.yaml"
    file.write_text(GOOD + f"  drift: {{schedule: '{schedule}'}}\n")
    with pytest.raises(ModelDefinitionError, match=r"defs.yaml:6: drift.schedule: .* five fields"):
        read_spec(file)


def test_thresholds_that_do_not_ascend_are_refused(tmp_path):
    file = tmp_path / "defs.yaml"
    file.write_text(GOOD + "  drift: {psi_warning: 0.5, psi_critical: 0.25}\n")
    with pytest.raises(ModelDefinitionError, match="psi_warning 0.5 must be below"):
        read_spec(file)
