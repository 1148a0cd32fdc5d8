"""Speed and quality of the prompt-attack detector, beside character TF-IDF + logistic regression.

    python -m benchmarks.vecsec [FOLDER WITH THE PROMPT DATA]

Without the data (or SECMON_PROMPT_DATA) only the speed is measured.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psycopg
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from secmon_dagster import database
from secmon_dagster.database import embedded, transaction
from secmon_dagster.settings import get_settings
from secmon_dagster.vecsec import (
    EvilAgent,
    LegitimateAgent,
    SecAgent,
    base_corpus,
    blind_test,
    patterns,
    read_rows,
    train,
)
from secmon_dagster.vecsec.blind_test import auc, recall_at
from secmon_dagster.vecsec.features import character_hashes

PATTERNS = 100_000
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
    started = time.process_time()
    blind_test(agent, tests=1000)
    return {
        "analyze_p50_ms": float(np.quantile(took, 0.5)),
        "analyze_p99_ms": float(np.quantile(took, 0.99)),
        "ngram_hashing_ms": float(np.median(own)),
        "sklearn_hashing_ms": float(np.median(peer)),
        "blind_test_1000_s": time.process_time() - started,
    }


def nearest() -> dict[str, float]:
    """The nearest of 100,000 stored patterns: by pgvector's index, by numpy where there is none.

    A server of its own, in a temporary folder. Wall time: the work is the server's.
    """
    many = np.random.default_rng(0).normal(size=(PATTERNS, 64)).astype(np.float32)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    near = milliseconds(lambda one: np.argpartition(many @ one, -3)[-3:], many[:200])
    with tempfile.TemporaryDirectory(prefix="secmon", ignore_cleanup_errors=True) as folder:
        os.environ["SECMON_HOME"] = f"{folder}/h"
        os.environ.pop("SECMON_DATABASE_URL", None)
        get_settings.cache_clear()
        with embedded.hold() as url, psycopg.connect(url, autocommit=True) as owner:
            database.migrate()
            owner.execute("DROP INDEX secmon.threat_patterns_vector")
            with owner.cursor().copy(
                "COPY secmon.threat_patterns (pattern_id, text, label, family, attack_type, source,"
                " embedding, space) FROM STDIN"
            ) as copy:
                for number, row in enumerate(many):
                    text = f"pattern {number}"
                    copy.write_row((f"{number:016x}", text, number % 2, "f", "none", "s",
                                    row.tolist(), "space"))  # fmt: skip
            owner.execute("SET maintenance_work_mem = '256MB'")
            owner.execute(
                "CREATE INDEX ON secmon.threat_patterns USING hnsw (vector vector_cosine_ops)"
                " WHERE retired_at IS NULL"
            )
            owner.execute("ANALYZE secmon.threat_patterns")  # as autovacuum does
            took, found = [], 0
            with transaction() as connection:
                for number in range(200):
                    started = time.perf_counter()
                    first, *_ = patterns.nearest(connection, many[number], "space")
                    took.append((time.perf_counter() - started) * 1000)
                    found += first.pattern_id == f"{number:016x}"
            database.close_pools()
    return {
        "nearest_of_100000_numpy_ms": float(np.median(near)),
        "nearest_of_100000_pgvector_p50_ms": float(np.quantile(took, 0.5)),
        "nearest_of_100000_pgvector_p99_ms": float(np.quantile(took, 0.99)),
        "nearest_of_100000_pgvector_found": found / len(took),
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
    result = speed() | nearest()
    data = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SECMON_PROMPT_DATA")
    if data:
        result |= quality(Path(data))
    print(json.dumps(result, indent=2))
