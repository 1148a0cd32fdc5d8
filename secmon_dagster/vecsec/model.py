"""What a detector has learned, as arrays: no code in it, nothing to unpickle."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec.embedding import HashedLSA
from secmon_dagster.vecsec.features import DENSE, DIMENSIONS, Features, Floats
from secmon_dagster.vecsec.rules import RULES, AttackType
from secmon_dagster.vecsec.vocabulary import Vocabulary

FORMAT = 2


@dataclass(frozen=True)
class Patterns:
    """Known prompts to compare with; rows of one matrix.

    Attributes:
        vectors: unit vectors, shape ``(patterns, size)``.
        labels: 1 attack, 0 benign, shape ``(patterns,)``.
        texts: the prompts, cut to what a person needs to recognise them.
        attack_types: of each pattern.
        ids: stable ids, the beginning of the text's SHA-256.
    """

    vectors: Floats
    labels: np.ndarray[Any, np.dtype[np.int8]]
    texts: tuple[str, ...]
    attack_types: tuple[AttackType, ...]
    ids: tuple[str, ...]


def pattern_id(text: str) -> str:
    """The id of a pattern: 16 hexadecimal digits of its text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True)
class DetectorModel:
    """All parameters of a detector.

    Attributes:
        weights: of hashed n-grams, shape ``(DIMENSIONS,)``.
        dense: of rules and shape, shape ``(DENSE,)``.
        bias: of the linear part.
        combine: weights of linear score, margin, and bias that give calibrated log-odds.
        embedder: vectors for the margin.
        patterns: what the margin compares with.
        vocabulary: what the views read with.
        flag: log-odds from which a prompt is flagged; ``block``: from which it is blocked.
        reference: the scores of honest prompts that both thresholds rest on: what the scores of
            traffic are compared with later.
        families: the families trained on; a blind test may use none of them.
        version: SHA-256 of the file it was read from; empty where it comes from none.
    """

    weights: Floats
    dense: Floats
    bias: float
    combine: tuple[float, float, float]
    embedder: HashedLSA
    patterns: Patterns
    vocabulary: Vocabulary
    flag: float
    block: float
    reference: Floats
    families: frozenset[str]
    version: str = ""

    def linear(self, features: Features) -> float:
        """The log-odds of the linear part alone."""
        return (
            float(features.values @ self.weights[features.indices])
            + float(features.dense @ self.dense)
            + self.bias
        )

    def save(self, path: Path) -> str:
        """Write to ``path`` (``.npz``, no pickle) and return the file's SHA-256."""
        used = np.flatnonzero(self.weights).astype(np.int32)
        meta = {
            "format": FORMAT,
            "rules": [rule.name for rule in RULES],
            "bias": self.bias,
            "combine": self.combine,
            "flag": self.flag,
            "block": self.block,
            "families": sorted(self.families),
            "vocabulary": self.vocabulary.counts,
            "texts": self.patterns.texts,
            "attack_types": self.patterns.attack_types,
            "ids": self.patterns.ids,
        }
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            allow_pickle=False,
            meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
            used=used,
            weights=self.weights[used],
            dense=self.dense,
            projection=self.embedder.projection.astype(np.float16),
            vectors=self.patterns.vectors.astype(np.float16),
            labels=self.patterns.labels,
            reference=self.reference,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: another process may read, or write the same, meanwhile.
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_bytes(buffer.getvalue())
        fresh.replace(path)
        return hashlib.sha256(buffer.getvalue()).hexdigest()

    @classmethod
    def load(cls, path: Path) -> DetectorModel:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidInputError: the file is missing, damaged, or made by another version's features.
        """
        try:
            content = path.read_bytes()
        except OSError as unreadable:
            raise _no_model(str(path), unreadable) from None
        return cls.loads(content, str(path))

    @classmethod
    def loads(cls, content: bytes, origin: str = "what was given") -> DetectorModel:
        """Read the bytes of a file that :meth:`save` wrote; ``origin`` is named in errors.

        Raises:
            InvalidInputError: they are damaged, or made by another version's features.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return cls._from(arrays, hashlib.sha256(content).hexdigest())
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as unreadable:
            raise _no_model(origin, unreadable) from None

    @classmethod
    def _from(cls, arrays: Any, version: str) -> DetectorModel:
        meta = json.loads(arrays["meta"].tobytes())
        if meta["format"] != FORMAT or meta["rules"] != [rule.name for rule in RULES]:
            raise ValueError("its features are not this version's")
        weights = np.zeros(DIMENSIONS, dtype=np.float32)
        weights[arrays["used"]] = arrays["weights"]
        dense = arrays["dense"]
        if dense.shape != (DENSE,):
            raise ValueError(f"{dense.shape} dense weights where {DENSE} are expected")
        return cls(
            weights=weights,
            dense=dense,
            bias=meta["bias"],
            combine=tuple(meta["combine"]),
            embedder=HashedLSA(arrays["projection"].astype(np.float32)),
            patterns=Patterns(
                vectors=arrays["vectors"].astype(np.float32),
                labels=arrays["labels"],
                texts=tuple(meta["texts"]),
                attack_types=tuple(map(AttackType, meta["attack_types"])),
                ids=tuple(meta["ids"]),
            ),
            vocabulary=Vocabulary(meta["vocabulary"]),
            flag=meta["flag"],
            block=meta["block"],
            reference=arrays["reference"],
            families=frozenset(meta["families"]),
            version=version,
        )


def _no_model(origin: str, why: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"{origin} is no detector model: {why}", hint="Train one: secmon vecsec train"
    )
