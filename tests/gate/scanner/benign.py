"""Ordinary files: fitted scikit-learn estimators and arrays in the formats people use."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import SkipTest

import joblib
import numpy as np
import pandas as pd
import safetensors.numpy
import scipy.sparse
import skops.io
from sklearn.base import BaseEstimator
from sklearn.datasets import make_classification
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import all_estimators
from sklearn.utils._test_common.instance_generator import _construct_instances

TEXTS = ["a red fox", "the lazy dog", "a quick red dog", "foxes and dogs"] * 5


@cache
def estimators() -> tuple[tuple[str, BaseEstimator], ...]:
    """One fitted instance of each estimator that fits a small table, a text or labels."""
    features, target = make_classification(40, 6, random_state=0)
    features = abs(features)
    labels = np.where(target == 1, "yes", "no")
    attempts: tuple[tuple[Any, ...], ...] = (
        (features, target), (features, np.c_[target, target]), (TEXTS, [0, 1] * 10), (labels,),
        (features[:, 0], target), (features @ features.T, target), (features, labels),
        ([{"a": 1, "b": "x"}] * 4,), ([["a", "b"], ["c"]],),
    )  # fmt: skip
    fitted = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, kind in all_estimators():
            try:
                instance = next(iter(_construct_instances(kind)))
            except (StopIteration, SkipTest):
                continue
            if _fit(instance, attempts):
                fitted.append((name, instance))
    return tuple(fitted)


def _fit(instance: BaseEstimator, attempts: tuple[tuple[Any, ...], ...]) -> bool:
    for arguments in attempts:
        try:
            instance.fit(*arguments)
        except Exception:
            continue
        return True
    return False


def models(choice: slice = slice(None)) -> Iterator[tuple[str, bytes]]:
    """Estimators × pickle 2 and 5, joblib plain and compressed, skops. Yields file name, bytes."""
    compressions: tuple[Any, ...] = (3, ("gzip", 3), ("bz2", 3), ("xz", 1), ("lzma", 1))
    for number, (name, estimator) in enumerate(estimators()[choice]):
        for protocol in (2, 5):
            yield f"{name}-{protocol}.pkl", pickle.dumps(estimator, protocol)
        compression = compressions[number % len(compressions)]
        for suffix, compress in ((".joblib", 0), ("-packed.joblib", compression)):
            buffer = io.BytesIO()
            if isinstance(compress, tuple):
                with tempfile.NamedTemporaryFile(suffix=".joblib") as file:
                    joblib.dump(estimator, file.name, compress=compress)
                    yield f"{name}{suffix}", Path(file.name).read_bytes()
                continue
            joblib.dump(estimator, buffer, compress=compress)
            yield f"{name}{suffix}", buffer.getvalue()
        try:
            yield f"{name}.skops", skops.io.dumps(estimator)
        except Exception:
            continue


def data() -> Iterator[tuple[str, bytes]]:
    """Arrays, frames, texts and what else lies in a model's folder."""
    random = np.random.default_rng(0)
    for kind in ("f8", "f4", "f2", "i8", "i4", "u1", "?", "c16", "M8[s]", "m8[ns]", "S7", "U5"):
        array = random.integers(0, 2, (3, 4)).astype(kind)
        buffer = io.BytesIO()
        np.save(buffer, array)
        yield f"array-{kind[:2]}.npy".replace("?", "bool"), buffer.getvalue()
    records = np.array([(1, 2.5, "x")], dtype=[("a", "i4"), ("b", "f8", (2,)), ("c", "U3")])
    for name, array in (("records", records), ("words", np.array(["a", None, 3], dtype=object))):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        yield f"{name}.npy", buffer.getvalue()
    for name, save in (("plain", np.savez), ("packed", np.savez_compressed)):
        buffer = io.BytesIO()
        save(buffer, a=random.random((50, 3)), b=np.arange(4))
        yield f"{name}.npz", buffer.getvalue()
    tensors = {"weight": random.random((4, 4)).astype("f4"), "bias": np.zeros(4, "f2")}
    yield "model.safetensors", safetensors.numpy.save(tensors, {"format": "np"})
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": pd.Categorical(["u", "v"]),
                          "d": pd.to_datetime(["2026-01-01", "2026-01-02"])})  # fmt: skip
    for protocol in (2, 5):
        yield f"frame-{protocol}.pkl", pickle.dumps(frame, protocol)
        yield f"sparse-{protocol}.pkl", pickle.dumps(scipy.sparse.eye(4).tocsr(), protocol)
        plain = {"a": [1, 2.5, "x", b"y", None, True, {1, 2}, (3,), 10**40], "r": random}
        yield f"values-{protocol}.pkl", pickle.dumps(plain, protocol)
    yield "values-0.pkl", pickle.dumps({"a": [1, "x", 2.5], "b": None}, 0)
    yield "config.json", json.dumps({"hidden": 4, "labels": ["a", "b"]}).encode()
    template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
        "{% if loop.last %}{{ message['content'] | trim }}{% endif %}{% endfor %}"
        "{% set ns = namespace(found=false) %}{{ raise_exception('no') if ns.found else '' }}"
    )
    yield "tokenizer_config.json", json.dumps({"chat_template": template}).encode()
    yield "params.yaml", b"model: logistic\nlayers: [1, 2]\nname: !!str 12\nmail: 'a@b!c'\n"
    yield "table.csv", b"id,score,note\n1,-2.5,hello\n2,+3,a=b\n3,4e-3,@home\n"
    yield "model.py", b"import numpy as np\n\n\ndef predict(x):\n    return np.exp(x) @ x\n"
    yield "README.md", b"# A model\n\nTrained on tables.\n"
    cells = [{"cell_type": "code", "source": ["%matplotlib inline\n", "import numpy as np\n"]}]
    yield "notes.ipynb", json.dumps({"nbformat": 4, "cells": cells}).encode()


def keras_pipeline() -> BaseEstimator:
    """A pipeline as the platform itself writes them."""
    features, target = make_classification(40, 6, random_state=0)
    from sklearn.linear_model import LogisticRegression

    return make_pipeline(StandardScaler(), LogisticRegression()).fit(features, target)
