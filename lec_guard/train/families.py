"""Which rows are of one origin, and folds that never split it.

A left-out file is not a left-out source: sets copy from each other, attacks are made from templates, and people paste
the same jailbreak twice. A head that has seen a row's near twin is measured on what it remembers. Where rows do not
say where they come from, those that read almost alike are therefore taken for one family.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.data import Dataset
from lec_guard.train.fit import Ints

SIMILAR = 0.7
"""Cosine from which two texts are of one family. Much lower, texts of one topic run together, because one in between is
like both; much higher, copies of one template fall apart."""

_CHARACTERS = 16_000_000
"""Of all texts together, that are compared; of longer ones the beginnings and the ends."""

_BUCKETS = 1 << 20
"""Columns that n-grams are hashed into: no vocabulary has to be kept."""

_PAIRS = 8_000_000
"""Similarities in memory at once."""

_CHECKED = 20_000
"""Pairs of texts whose whole vectors are multiplied at once."""


def family_names(dataset: Dataset, *, similar: float = SIMILAR) -> npt.NDArray[np.str_]:
    """The family of each row: the one it names, else that of the rows whose texts are near duplicates of its own.

    Near duplicates are the connected components of texts that share most of what they are written with: the cosine of
    the logarithmic frequencies of their n-grams of 3 to 5 characters. Not of TF-IDF: where half of the rows are made
    from one template, its words would weigh next to nothing, and the copies would differ. Contexts do not count, so
    that rows which share a text under other contexts are one family. A row that names no family and reads like rows
    that do joins the family that most of them name. Rows that name their families keep them, however they read.

    The same rows give the same names. 20,000 texts of a few sentences take well under a minute on one core, and half a
    gigabyte; time grows with the square of their number.

    Args:
        dataset: The rows.
        similar: Cosine from which two texts are of one family.

    Returns:
        `[examples]`; a family without a name is called after its first row, as `like data.csv:17`.
    """
    named = [example.family for example in dataset.examples]
    names = np.array([name or "" for name in named], np.str_)
    if all(named):
        return names
    components = _components(_vectors([example.text for example in dataset.examples]), similar)
    members: dict[int, list[int]] = {}
    for row, component in enumerate(components.tolist()):
        members.setdefault(component, []).append(row)
    called = list(named)
    for rows in members.values():
        own = Counter(family for row in rows if (family := named[row]))
        name = (
            min(own, key=lambda family: (-own[family], family)) if own else f"like {dataset.examples[rows[0]].source}"
        )
        for row in rows:
            called[row] = named[row] or name
    return np.array(called, np.str_)


def first_alike(texts: Sequence[str]) -> list[int]:
    """Group texts with the first one that each is a near duplicate of, as `family_names` tells these.

    Unlike families, groups are not chains: each text is like the one that stands for its group, so that nothing hides
    behind a text that it does not resemble.

    Args:
        texts: The texts, at most a few thousand: each is compared with each.

    Returns:
        For each text the position of the one that stands for it; its own where it stands for itself.
    """
    if not texts:
        return []
    vectors = _vectors(texts)
    alike = (vectors @ vectors.T).toarray() >= SIMILAR
    found: list[int] = []
    for at in range(len(texts)):
        found.append(next((first for first in dict.fromkeys(found) if alike[at, first]), at))
    return found


def held_out(dataset: Dataset, families: npt.NDArray[np.str_], folds: int) -> list[Ints]:
    """Split rows so that no family is on both sides, and every fold holds out benign and harmful ones.

    Families are dealt out largest first, so that folds get like shares of each label. Every label also stands in two
    folds at least, so that none is missing from what a fold's head is fitted to.

    Args:
        dataset: The rows.
        families: The family of each, `[examples]`; see `family_names`.
        folds: How many folds, at least 2.

    Returns:
        The rows to hold out in each fold, in order; together they are all rows.

    Raises:
        UnsupportedValueError: If a label is in too few families, or in families that other labels tie together; names
            it, and the option `--folds`.
    """
    if folds < 2:
        raise UnsupportedValueError(f"{folds} folds hold nothing out: give --folds 2 or more")
    names, owner = np.unique(families, return_inverse=True)
    counts = np.zeros((len(names), len(dataset.labels)), np.int64)
    np.add.at(counts, (owner, dataset.hard), 1)
    harmful = counts[:, 1:].sum(axis=1)
    _check(dataset.labels, counts, harmful, folds)

    dealt = np.full(len(names), -1)
    held = np.zeros((folds, len(dataset.labels)), np.int64)
    # Largest first; ties by name, so that the order of rows changes nothing.
    order = np.lexsort((np.arange(len(names)), -counts.sum(axis=1)))
    for fold, family in _first(order, counts[:, 0] > 0, harmful > 0, folds):
        dealt[family] = fold
        held[fold] += counts[family]
    share = 1 / np.maximum(counts.sum(axis=0), 1) ** 2
    for family in order[dealt[order] < 0]:
        own = counts[family]
        # A label that only one fold holds out would be missing from what that fold's head is fitted to.
        alone = ((held > 0).sum(axis=0) == 1) & (own > 0)
        stuck = ((held > 0) & alone).sum(axis=1)
        load = (held * own * share).sum(axis=1)
        fold = int(np.lexsort((np.arange(folds), load, stuck))[0])
        dealt[family] = fold
        held[fold] += own
    missing = np.argwhere((held.sum(axis=0) == held) & (held > 0))
    if len(missing):
        label = dataset.labels[missing[0][1]]
        raise UnsupportedValueError(
            f"as families are dealt out to {folds} folds, {label!r} would be missing from what one is fitted to: "
            "add rows of other origin with that label, or give another number of --folds"
        )
    return [np.flatnonzero(dealt[owner] == fold) for fold in range(folds)]


def _check(labels: tuple[str, ...], counts: Ints, harmful: Ints, folds: int) -> None:
    benign, attacked = int((counts[:, 0] > 0).sum()), int((harmful > 0).sum())
    others = [repr(label) for label in labels[1:]]
    found = [(repr(labels[0]), benign, folds), (" or ".join(others), attacked, folds)]
    if len(others) > 1:
        found += zip(others, (counts[:, 1:] > 0).sum(axis=0).tolist(), [2] * len(others), strict=True)
    for label, there, needed in found:
        if there < needed:
            most = min(benign, attacked)
            mend = f", or fewer folds with --folds {most}" if needed == folds and most >= 2 else ""
            raise UnsupportedValueError(
                f"fewer families than folds: {there} {'family' if there == 1 else 'families'} with {label}, "
                f"needed {needed}: add rows of other origin with that label{mend}"
            )


def _first(
    order: Ints, benign: npt.NDArray[np.bool_], harmful: npt.NDArray[np.bool_], folds: int
) -> list[tuple[int, int]]:
    """A family with both labels for each fold, as far as they reach; then one of each label: fold and family."""
    both = order[(benign & harmful)[order]][:folds].tolist()
    first = list(enumerate(both))
    for wanted in (benign & ~harmful, harmful & ~benign):
        first += zip(range(len(both), folds), order[wanted[order]].tolist(), strict=False)
    return first


def _vectors(texts: Sequence[str]) -> sparse.csr_matrix:
    """`[texts, n-grams]` of length 1, in float32; columns in the order of how many texts have them."""
    most = max(_CHARACTERS // len(texts), 256) if sum(map(len, texts)) > _CHARACTERS else None
    # Half a surrogate pair can't be hashed.
    shown = (_shown(text, most).encode("utf-8", "replace").decode() for text in texts)
    counted = HashingVectorizer(
        analyzer="char_wb",
        ngram_range=(3, 5),
        n_features=_BUCKETS,
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    ).transform(shown)
    weighted = TfidfTransformer(sublinear_tf=True, use_idf=False).fit_transform(counted)
    rank = np.empty(_BUCKETS, weighted.indices.dtype)
    rank[np.argsort(np.bincount(weighted.indices, minlength=_BUCKETS), kind="stable")] = np.arange(_BUCKETS)
    vectors = sparse.csr_matrix((weighted.data, rank[weighted.indices], weighted.indptr), shape=weighted.shape)
    vectors.sort_indices()
    return vectors


def _shown(text: str, most: int | None) -> str:
    return text if most is None or len(text) <= most else f"{text[: most // 2]} {text[-most // 2 :]}"


def _components(vectors: sparse.csr_matrix, similar: float) -> Ints:
    """Connected components of the rows whose products reach `similar`, exactly; `[rows]`.

    All products of 20,000 rows would take minutes, for n-grams that most rows have. A row's rarer ones are therefore
    multiplied first: the others can't add more than their length (Cauchy-Schwarz), so most pairs are out.
    """
    rare, rest = _split(vectors, 0.7 * similar)
    parts = _Parts(vectors.shape[0])
    size = min(max(_PAIRS // vectors.shape[0], 1), 256)
    pending = np.arange(vectors.shape[0])
    while len(pending):
        block, targets = parts.next_block(pending, size)
        pending = np.setdiff1d(pending, block, assume_unique=True)
        targets = np.union1d(targets, block) if len(targets) else block
        products = (rare[block] @ vectors[targets].T).tocoo()
        left, right = block[products.row], targets[products.col]
        close = (products.data >= similar - rest[left] - 1e-6) & (left != right)
        sure = close & (products.data >= similar)
        parts.join(left[sure], right[sure])
        left, right = parts.apart(left[close & ~sure], right[close & ~sure])
        while len(left):
            dots = vectors[left[:_CHECKED]].multiply(vectors[right[:_CHECKED]]).sum(axis=1)
            enough = np.asarray(dots).ravel() >= similar
            parts.join(left[:_CHECKED][enough], right[:_CHECKED][enough])
            left, right = parts.apart(left[_CHECKED:], right[_CHECKED:])
    return parts.of


def _split(vectors: sparse.csr_matrix, most: float) -> tuple[sparse.csr_matrix, npt.NDArray[np.float64]]:
    """Each row without its commonest columns, and the length of what went, at most `most`; columns are rarest first."""
    owner = np.repeat(np.arange(vectors.shape[0]), np.diff(vectors.indptr))
    squares = vectors.data.astype(np.float64) ** 2
    sums = np.concatenate([[0.0], np.cumsum(squares)])
    # What stands from an entry to the end of its row.
    keep = sums[vectors.indptr[1:]][owner] - sums[:-1] > most**2
    gone = np.bincount(owner[~keep], weights=squares[~keep], minlength=vectors.shape[0])
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner[keep], minlength=vectors.shape[0]))])
    rare = sparse.csr_matrix((vectors.data[keep], vectors.indices[keep], starts), shape=vectors.shape)
    return rare, np.sqrt(gone)


class _Parts:
    """Which rows are known to belong together so far."""

    def __init__(self, rows: int) -> None:
        self.of: Ints = np.arange(rows)

    def join(self, left: Ints, right: Ints) -> None:
        """These pairs belong together."""
        if len(left):
            edges = sparse.coo_matrix((np.ones(len(left), bool), (self.of[left], self.of[right])), (len(self.of),) * 2)
            self.of = sparse.csgraph.connected_components(edges, directed=False)[1][self.of]

    def apart(self, left: Ints, right: Ints) -> tuple[Ints, Ints]:
        """The pairs of which it is not known."""
        apart = self.of[left] != self.of[right]
        return left[apart], right[apart]

    def next_block(self, pending: Ints, size: int) -> tuple[Ints, Ints]:
        """Rows to compare next, and which of those pending to compare them with.

        Where many pending rows belong together they come first, and are not compared with each other: thousands of
        copies of a template would make millions of pairs that say nothing new.
        """
        own = self.of[pending]
        largest = int(np.bincount(own).argmax())
        together = own == largest
        if together.sum() < size:
            return pending[:size], pending
        return pending[together][:size], pending[~together]
