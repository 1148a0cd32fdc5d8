"""How good a trained model is on rows it hasn't seen, in numbers and in pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from secmon_dagster.training.features import SPLIT, feature_names
from secmon_dagster.training.spec import ModelSpec


@dataclass(frozen=True)
class Evaluation:
    """Held-out results.

    ``metrics`` are accuracy, balanced_accuracy, precision, recall, f1 (macro averages for more than
    two classes), roc_auc (one-versus-rest, macro) and log_loss. ``confusion`` is (classes,
    classes), rows the truth, columns the prediction. ``roc`` maps a class to its (false-positive,
    true-positive) rates; for two classes only the second is in it. ``scores`` has one row a
    held-out row: truth, prediction, and the probability of each class.
    """

    rows: int
    classes: tuple[str, ...]
    metrics: dict[str, float]
    confusion: np.ndarray
    roc: dict[str, tuple[np.ndarray, np.ndarray]]
    scores: (
        pd.DataFrame
    )  # one row a held-out row: truth, prediction, and the probability of each class


def evaluate(pipeline: Any, table: pd.DataFrame, spec: ModelSpec) -> Evaluation:
    """Score ``pipeline`` on the rows marked ``test``."""
    from sklearn import metrics

    rows = table[table[SPLIT] == "test"]
    inputs, truth = rows[feature_names(table, spec)], rows[spec.target]
    predicted = pipeline.predict(inputs)
    probabilities = _probabilities(pipeline, inputs)
    classes = pipeline.classes_
    binary = len(classes) == 2
    average = "binary" if binary else "macro"
    named = {"pos_label": classes[1]} if binary else {}

    def rate(function: Any) -> float:
        return float(function(truth, predicted, average=average, zero_division=0, **named))

    values = {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(truth, predicted)),
        "precision": rate(metrics.precision_score),
        "recall": rate(metrics.recall_score),
        "f1": rate(metrics.f1_score),
        "roc_auc": float(
            metrics.roc_auc_score(truth == classes[1], probabilities[:, 1])
            if binary
            else metrics.roc_auc_score(truth, probabilities, multi_class="ovr", labels=classes)
        ),
        "log_loss": float(metrics.log_loss(truth, probabilities, labels=classes)),
    }
    curves = {}
    for index, name in enumerate(classes):
        if binary and index == 0:
            continue
        false_positive, true_positive, _ = metrics.roc_curve(truth == name, probabilities[:, index])
        curves[str(name)] = (false_positive, true_positive)
    scores = pd.DataFrame({"truth": truth.astype(str), "prediction": predicted.astype(str)})
    for index, name in enumerate(classes):
        scores[f"probability_{name}"] = probabilities[:, index]
    return Evaluation(
        rows=len(rows),
        classes=tuple(map(str, classes)),
        metrics=values,
        confusion=metrics.confusion_matrix(truth, predicted, labels=classes),
        roc=curves,
        scores=scores.reset_index(drop=True),
    )


def _probabilities(pipeline: Any, inputs: pd.DataFrame) -> np.ndarray:
    """(rows, classes), each row sums to 1; a softmax of the decision function where the estimator
    gives no probabilities."""
    if hasattr(pipeline, "predict_proba"):
        return np.asarray(pipeline.predict_proba(inputs))
    from scipy.special import softmax

    margin = np.asarray(pipeline.decision_function(inputs))
    if margin.ndim == 1:
        margin = np.column_stack([-margin / 2, margin / 2])
    return np.asarray(softmax(margin, axis=1))


def metric_table(metrics: dict[str, float]) -> str:
    """A markdown table."""
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items())
    return f"| metric | value |\n|---|---|\n{rows}"


def confusion_picture(evaluation: Evaluation) -> str:
    """The confusion matrix as markdown with an inline PNG."""
    figure = _figure()
    axes = figure.add_subplot()
    axes.imshow(evaluation.confusion, cmap="Blues")
    ticks = range(len(evaluation.classes))
    axes.set_xticks(ticks, evaluation.classes)
    axes.set_yticks(ticks, evaluation.classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    middle = evaluation.confusion.max() / 2
    for (row, column), count in np.ndenumerate(evaluation.confusion):
        colour = "white" if count > middle else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    return _markdown(figure, "confusion matrix")


def roc_picture(evaluation: Evaluation) -> str:
    """The ROC curves as markdown with an inline PNG."""
    figure = _figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    for name, (false_positive, true_positive) in evaluation.roc.items():
        axes.plot(false_positive, true_positive, label=name)
    axes.set_xlabel("false-positive rate")
    axes.set_ylabel("true-positive rate")
    axes.legend(title="class", loc="lower right")
    return _markdown(figure, "ROC")


def _figure() -> Any:
    # Not pyplot: it keeps figures alive and chooses a window system.
    from matplotlib.figure import Figure

    return Figure(figsize=(4.5, 3.8), dpi=90, layout="tight")


def _markdown(figure: Any, name: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return f"![{name}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"
