"""Prompts as short vectors, so that nearness means likeness.

The default is hashed latent semantic analysis (Deerwester et al. 1990): a truncated SVD of the
n-gram matrix, learned with the detector, with no download. A sentence encoder may take its place:
anything with :class:`Embedder`'s two members.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from secmon_dagster.vecsec.features import Features, Floats

EMBEDDING_SIZE = 64
_FOLDED = 1 << 14


class Embedder(Protocol):
    """Turns features into unit vectors."""

    @property
    def size(self) -> int:
        """Length of a vector."""

    def embed(self, features: Features, text: str) -> Floats:
        """A vector of length one (zero for an empty text), shape ``(size,)``."""


class HashedLSA:
    """Latent semantic analysis over hashed n-grams folded to 16,384 columns.

    Args:
        projection: shape ``(16384, size)``.
    """

    def __init__(self, projection: Floats) -> None:
        self.projection = projection

    @classmethod
    def learn(cls, matrix: sp.csr_matrix, *, size: int = EMBEDDING_SIZE) -> HashedLSA:
        """Fit on the n-gram ``matrix`` of shape ``(prompts, DIMENSIONS)``."""
        folded = _fold(matrix)
        present = np.asarray((folded > 0).sum(axis=0)).ravel()
        # Rare n-grams tell more: the usual smoothed inverse document frequency.
        weight = np.log((1 + folded.shape[0]) / (1 + present)) + 1.0
        size = min(size, *folded.shape)
        _, _, components = randomized_svd(
            folded @ sp.diags(weight), n_components=size, n_iter=2, random_state=0
        )
        return cls(np.ascontiguousarray((components * weight).T, dtype=np.float32))

    @property
    def size(self) -> int:
        return int(self.projection.shape[1])

    @cached_property
    def space(self) -> str:
        """Names the vectors that may be compared: 16 digits of the SHA-256 of the projection as it
        is saved."""
        return hashlib.sha256(self.projection.astype(np.float16).tobytes()).hexdigest()[:16]

    def embed(self, features: Features, text: str) -> Floats:
        vector = features.values @ self.projection[features.indices & (_FOLDED - 1)]
        norm = float(np.sqrt(vector @ vector))
        return np.asarray(vector / np.float32(norm or 1.0), dtype=np.float32)

    def embed_all(self, matrix: sp.csr_matrix) -> Floats:
        """One vector a row of ``matrix``, shape ``(prompts, size)``."""
        vectors = np.asarray(_fold(matrix) @ self.projection, dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(norms > 0, norms, 1.0), dtype=np.float32)


def _fold(matrix: sp.csr_matrix) -> sp.csr_matrix:
    # Copies: sum_duplicates works in place.
    folded = sp.csr_matrix(
        (matrix.data.copy(), matrix.indices & (_FOLDED - 1), matrix.indptr.copy()),
        shape=(matrix.shape[0], _FOLDED),
    )
    folded.sum_duplicates()
    return folded
