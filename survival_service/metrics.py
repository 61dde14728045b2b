"""How well fitted times order observed ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from survival_service.observations import FloatArray


def concordance(
    time: FloatArray, failed: NDArray[np.bool_], predicted: FloatArray, weight: FloatArray | None = None
) -> float | None:
    """Harrell's C: of the pairs whose order is known, the share that the prediction orders alike, ties half.

    A pair is known if the earlier time is a failure; a time censored when another sample fails counts as later.
    None without such a pair. Weighted rows count as that many samples (never paired with themselves).
    O(n log^2 n).
    """
    n = time.size
    w = np.ones(n) if weight is None else weight
    # Later first; at one time the censored before the failures, so that a failure finds them among the later.
    key = 2 * np.unique(time, return_inverse=True)[1].ravel() + (~failed)
    rank = np.unique(predicted, return_inverse=True)[1].ravel()
    order = np.argsort(-key, kind="stable")
    key, rank, w, failed = key[order], rank[order], w[order], failed[order]
    later = np.searchsorted(-key, -key, side="left")  # rows before this position have a larger key
    below, equal = _prefix_ranks(rank, w, later)
    pairs = np.append(0.0, np.cumsum(w))[later]
    known = float((w * pairs)[failed].sum())
    if known <= 0:
        return None
    agreeing = float((w * (pairs - below - 0.5 * equal))[failed].sum())
    return min(1.0, max(0.0, agreeing / known))


def _prefix_ranks(
    rank: NDArray[np.intp], weight: FloatArray, length: NDArray[np.intp]
) -> tuple[FloatArray, FloatArray]:
    """For each i, the weight among the first length[i] rows with a rank below rank[i], and equal to it.

    A prefix is a union of aligned blocks of sizes 1, 2, 4, ..., one for each bit of its length; each size is one sort.
    """
    n = rank.size
    below, equal = np.zeros(n), np.zeros(n)
    stride = int(rank.max(initial=0)) + 1
    size = 1
    while size <= n:
        asking = np.flatnonzero(length & size)
        if asking.size:
            keys = (np.arange(n) // size) * stride + rank
            order = np.argsort(keys, kind="stable")
            ordered, summed = keys[order], np.append(0.0, np.cumsum(weight[order]))
            block = (length[asking] // (2 * size)) * 2 * stride
            first, low, high = (
                summed[at]
                for at in (
                    np.searchsorted(ordered, block),
                    np.searchsorted(ordered, block + rank[asking]),
                    np.searchsorted(ordered, block + rank[asking], side="right"),
                )
            )
            below[asking] += low - first
            equal[asking] += high - low
        size *= 2
    return below, equal
