"""Speed and quality of the prompt-attack detector, beside character TF-IDF + logistic regression.

    python -m benchmarks.vecsec [FOLDER WITH THE PROMPT DATA]

Without the data (or SECMON_PROMPT_DATA) only the speed is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from secmon_dagster.vecsec import (
    EvilAgent,
    LegitimateAgent,
    SecAgent,
    base_corpus,
    blind_test,
    read_rows,
    train,
)
from secmon_dagster.vecsec.blind_test import auc, recall_at
from secmon_dagster.vecsec.features import character_hashes

TWO_CLASS = ("deepset", "jailbreak_roleplay", "cyber")


def milliseconds(act, texts) -> np.ndarray:
    """CPU time of ``act`` on each text: what other processes take doesn't count."""
    found = []
    for text in texts:
        started = time.thread_time()
        act(text)
        found.append((time.thread_time() - started) * 1000)
    return np.array(found)


def speed() -> dict[str, float]:
    agent = SecAgent(train(base_corpus()))
    rows = [*EvilAgent(seed=1, disguised=0).prompts(400), *LegitimateAgent(seed=1).prompts(400)]
    texts = [(row.text + " ") * 500 for row in rows]
    texts = [text[:500] for text in texts]
    took = milliseconds(agent.analyze, texts)
    hashing = HashingVectorizer(analyzer="char", ngram_range=(2, 5))
    peer = milliseconds(lambda text: hashing.transform([text]), texts)
    own = milliseconds(character_hashes, texts)
    many = np.random.default_rng(0).normal(size=(100_000, 64)).astype(np.float32)
    vector = many[0].copy()
    near = milliseconds(lambda _: np.argpartition(many @ vector, -3)[-3:], range(100))
    started = time.process_time()
    blind_test(agent, tests=1000)
    return {
        "analyze_p50_ms": float(np.quantile(took, 0.5)),
        "analyze_p99_ms": float(np.quantile(took, 0.99)),
        "ngram_hashing_ms": float(np.median(own)),
        "sklearn_hashing_ms": float(np.median(peer)),
        "nearest_of_100000_ms": float(np.median(near)),
        "blind_test_1000_s": time.process_time() - started,
    }


def quality(folder: Path) -> dict[str, float]:
    rows = {file.stem: read_rows([file]) for file in folder.glob("*.jsonl")}
    found = {"ours": [], "baseline": []}
    for held in TWO_CLASS:
        public = [r for name in TWO_CLASS if name != held for r in rows[name]]
        public += rows["benign_instructions"]
        labels = np.array([row.label for row in rows[held]], dtype=np.int8)
        agent = SecAgent(train([*base_corpus(), *public]))
        scores = np.array([agent.score(row.text) for row in rows[held]])
        found["ours"].append((auc(labels, scores), recall_at(labels, scores)[0]))
        tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
        matrix = tfidf.fit_transform([row.text for row in public])
        plain = LogisticRegression(C=10, class_weight="balanced", solver="liblinear")
        plain.fit(matrix, [row.label for row in public])
        scores = plain.decision_function(tfidf.transform([row.text for row in rows[held]]))
        found["baseline"].append((auc(labels, scores), recall_at(labels, scores)[0]))
    means = {name: np.mean(pairs, axis=0) for name, pairs in found.items()}
    return {
        f"{name}_{what}": float(value)
        for name, pair in means.items()
        for what, value in zip(("auc", "recall_at_1pct"), pair, strict=True)
    }


if __name__ == "__main__":
    result = speed()
    data = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SECMON_PROMPT_DATA")
    if data:
        result |= quality(Path(data))
    print(json.dumps(result, indent=2))
