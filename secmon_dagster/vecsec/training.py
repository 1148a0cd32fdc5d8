"""Learning a detector from labelled prompts.

The linear part is logistic regression over all features. How far to trust it beside the similarity
margin is learned on families it has not seen: each group of families is scored by a model trained
without it, since in-distribution scores (AUC .99) say nothing about new attacks (.80).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec.calibration import conformal_threshold
from secmon_dagster.vecsec.corpus import TrainingRow
from secmon_dagster.vecsec.embedding import HashedLSA
from secmon_dagster.vecsec.features import DENSE, DIMENSIONS, Floats, features_of
from secmon_dagster.vecsec.model import DetectorModel, Patterns, pattern_id
from secmon_dagster.vecsec.views import View, canonical_view
from secmon_dagster.vecsec.vocabulary import Vocabulary

# Of benign prompts from families held out, the worst case: elsewhere 5 % of these are about 1 %
# (measured), and a deployment sets its own threshold on its own traffic.
FLAG_RATE, BLOCK_RATE = 0.05, 0.005
WINDOW = 6000
NEAREST = 3
DENSE_SCALE = 2.0
_INVERSE_REGULARISATION = 4.0
_FOLDS = 4
MAX_PATTERNS = 4000
SHOWN = 300
_FAMILY_SIZE, _MOST = 250, 5.0

Labels = npt.NDArray[np.int8]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """Rows as matrices: n-grams, shape ``(rows, DIMENSIONS)``, and dense, ``(rows, DENSE)``."""

    grams: sp.csr_matrix
    dense: Floats

    def joined(self) -> sp.csr_matrix:
        scaled = sp.csr_matrix(self.dense * DENSE_SCALE)
        return sp.csr_matrix(sp.hstack([self.grams, scaled], format="csr"))

    def rows(self, chosen: npt.NDArray[np.intp]) -> Design:
        return Design(self.grams[chosen], self.dense[chosen])


def head_of(view: View) -> View:
    """The beginning of a long view: what one row of training, or one window, may hold."""
    if len(view.text) <= WINDOW:
        return view
    return View(view.kind, view.text[:WINDOW], view.cleaned[:WINDOW], view.disguise)


def design_of(texts: Sequence[str]) -> Design:
    """The features of the canonical views of ``texts``."""
    indices, values, ends, dense = [], [], [0], np.zeros((len(texts), DENSE), dtype=np.float32)
    for row, text in enumerate(texts):
        features = features_of(head_of(canonical_view(text)))
        indices.append(features.indices)
        values.append(features.values)
        ends.append(ends[-1] + len(features.indices))
        dense[row] = features.dense
    grams = sp.csr_matrix(
        (np.concatenate(values), np.concatenate(indices), ends), shape=(len(texts), DIMENSIONS)
    )
    grams.sum_duplicates()
    return Design(grams, dense)


def margins(
    vectors: Floats, patterns: Floats, labels: Labels, groups: npt.NDArray[np.intp] | None = None
) -> Floats:
    """Likeness to attacks minus likeness to benign prompts, of each row of ``vectors``.

    Each is the mean cosine of the three nearest. With ``groups`` (one number a row, the patterns
    being the rows themselves) a row is not compared with its own group.
    """
    found = np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), 1024):
        likeness = vectors[start : start + 1024] @ patterns.T
        if groups is not None:
            likeness[groups[start : start + 1024, None] == groups[None, :]] = -1.0
        nearest = []
        for label in (1, 0):
            side = likeness[:, labels == label]
            top = min(NEAREST, side.shape[1])
            nearest.append(np.partition(side, -top, axis=1)[:, -top:].mean(axis=1))
        found[start : start + 1024] = nearest[0] - nearest[1]
    return found


def fit_linear(design: Design, labels: Labels, weights: Doubles) -> LogisticRegression:
    """Logistic regression, both classes of equal weight."""
    return LogisticRegression(
        C=_INVERSE_REGULARISATION,
        solver="liblinear",
        dual=True,  # fewer rows than features: seven times faster here
        tol=0.01,
        max_iter=300,
        class_weight="balanced",
        random_state=0,
    ).fit(design.joined(), labels, sample_weight=weights)


def family_folds(rows: Sequence[TrainingRow], labels: Labels) -> npt.NDArray[np.intp]:
    """A fold for each row such that no family is in two folds; each label is spread evenly."""
    sizes: dict[tuple[int, str], int] = {}
    for row in rows:
        key = (row.label, row.family)
        sizes[key] = sizes.get(key, 0) + 1
    fold_of: dict[tuple[int, str], int] = {}
    filled = np.zeros((2, _FOLDS))
    for (label, family), size in sorted(sizes.items(), key=lambda item: -item[1]):
        # A two-class family goes to one fold whole.
        other = fold_of.get((1 - label, family))
        fold = int(np.argmin(filled[label])) if other is None else other
        fold_of[(label, family)] = fold
        filled[label][fold] += size
    return np.array([fold_of[(row.label, row.family)] for row in rows], dtype=np.intp)


def family_weights(rows: Sequence[TrainingRow]) -> Doubles:
    """A weight a row: up to five for a small family, so that fifty new labels are heard."""
    sizes = Counter((row.family, row.label) for row in rows)
    return np.array(
        [min(_MOST, max(1.0, _FAMILY_SIZE / sizes[(row.family, row.label)])) for row in rows]
    )


def train(rows: Sequence[TrainingRow], *, weights: Sequence[float] | None = None) -> DetectorModel:
    """A detector from labelled rows.

    Args:
        rows: both labels; order doesn't matter.
        weights: how much each row counts; by the size of its family where not given.

    Raises:
        InvalidInputError: fewer than ten rows of either label.
    """
    labels = np.array([row.label for row in rows], dtype=np.int8)
    for label, name in ((1, "attacks (label 1)"), (0, "benign prompts (label 0)")):
        if (labels == label).sum() < 10:
            raise InvalidInputError.of(name, int((labels == label).sum()), "at least 10")
    importance = family_weights(rows) if weights is None else np.asarray(weights, dtype=np.float64)
    texts = [row.text for row in rows]
    design = design_of(texts)
    embedder = HashedLSA.learn(design.grams)
    vectors = embedder.embed_all(design.grams)
    folds = family_folds(rows, labels)

    unseen = np.zeros((len(rows), 2))
    unseen[:, 1] = margins(vectors, vectors, labels, folds)
    for fold in range(_FOLDS):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(outside) == 0 or len(set(labels[inside].tolist())) < 2:
            continue
        part = fit_linear(design.rows(inside), labels[inside], importance[inside])
        unseen[outside, 0] = part.decision_function(design.rows(outside).joined())
    stack = LogisticRegression(C=10.0, class_weight="balanced").fit(
        unseen, labels, sample_weight=importance
    )
    combine = (float(stack.coef_[0][0]), float(stack.coef_[0][1]), float(stack.intercept_[0]))
    benign = stack.decision_function(unseen)[labels == 0]

    linear = fit_linear(design, labels, importance)
    coefficients = linear.coef_[0].astype(np.float32)
    chosen = _chosen_patterns(rows, importance)
    enough = len(benign) >= 20
    return DetectorModel(
        weights=coefficients[:DIMENSIONS],
        dense=coefficients[DIMENSIONS:] * np.float32(DENSE_SCALE),
        bias=float(linear.intercept_[0]),
        combine=combine,
        embedder=embedder,
        patterns=Patterns(
            vectors=vectors[chosen],
            labels=labels[chosen],
            texts=tuple(texts[index][:SHOWN] for index in chosen),
            attack_types=tuple(rows[index].attack_type for index in chosen),
            ids=tuple(pattern_id(texts[index]) for index in chosen),
        ),
        vocabulary=Vocabulary.learn(canonical_view(text[:WINDOW]).text for text in texts),
        flag=conformal_threshold(benign, FLAG_RATE).value if enough else 0.0,
        block=conformal_threshold(benign, BLOCK_RATE).value if enough else 0.0,
        reference=benign.astype(np.float32),
        families=frozenset(row.family for row in rows),
    )


def _chosen_patterns(rows: Sequence[TrainingRow], importance: Doubles) -> npt.NDArray[np.intp]:
    """At most ``MAX_PATTERNS`` rows: the weightiest first, else evenly over the corpus."""
    if len(rows) <= MAX_PATTERNS:
        return np.arange(len(rows), dtype=np.intp)
    spread = np.random.default_rng(0).permutation(len(rows))
    order = np.lexsort((spread, -importance))
    return np.sort(order[:MAX_PATTERNS]).astype(np.intp)
