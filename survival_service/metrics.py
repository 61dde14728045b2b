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
    None without such a pair. Weighted rows, the cells of a count table, count as that many samples; those of one cell
    have one time and make no pair. O(n log n), and exact while the number of pairs is below 2^52.
    """
    n = time.size
    w = np.ones(n) if weight is None else weight
    # Later first; at one time the censored before the failures, so that a failure finds them among the later.
    key = 2 * np.unique(time, return_inverse=True)[1].ravel() + (~failed)
    order = np.argsort(-key, kind="stable")
    key, w, asking = key[order], w[order], np.flatnonzero(failed[order])
    rank = np.unique(predicted, return_inverse=True)[1].ravel()[order]
    later = np.searchsorted(-key, -key[asking], side="left")  # rows before this position have a larger key
    below, equal = _prefix_ranks(rank, w, later, rank[asking])
    pairs = np.append(0.0, np.cumsum(w))[later]
    known = float(w[asking] @ pairs)
    if known <= 0:
        return None
    agreeing = float(w[asking] @ (pairs - below - 0.5 * equal))
    return min(1.0, max(0.0, agreeing / known))


def _prefix_ranks(
    rank: NDArray[np.intp], weight: FloatArray, length: NDArray[np.intp], own: NDArray[np.intp]
) -> tuple[FloatArray, FloatArray]:
    """For each question, the weight among the first `length` rows with a rank below `own`, and equal to it.

    A wavelet matrix (Claude, Navarro and Ordóñez 2015): the rows are divided by one bit of their rank after another,
    the highest first and in their order, and each question keeps the range that agrees with it so far.
    """
    first, last = np.zeros_like(length), length
    below = np.zeros(length.size)
    for bit in reversed(range(int(rank.max(initial=0)).bit_length())):
        ones = (rank >> bit & 1).astype(bool)
        zeros_before = np.append(0, np.cumsum(~ones))
        weight_before = np.append(0.0, np.cumsum(np.where(ones, 0.0, weight)))
        high = (own >> bit & 1).astype(bool)
        below += np.where(high, weight_before[last] - weight_before[first], 0.0)
        first, last = (
            np.where(high, zeros_before[-1] + at - zeros_before[at], zeros_before[at]) for at in (first, last)
        )
        rank = np.concatenate([rank[~ones], rank[ones]])
        weight = np.concatenate([weight[~ones], weight[ones]])
    summed = np.append(0.0, np.cumsum(weight))
    return below, summed[last] - summed[first]
