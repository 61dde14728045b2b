"""Whether a log-likelihood has a maximum at all, or rises for ever in some direction towards a limit.

In z = gamma log t - x'delta every row's log-likelihood is concave, and in each direction (d, g) of (delta, gamma) it
rises for ever, stays, or falls for ever in the end. It never falls in a direction in which the z of an exact row stays,
that of a right-censored one does not rise, that of a left-censored one does not fall, and the lower end of an interval
does not rise while its upper end does not fall: directions of recession (Rockafellar 1970, section 8; for exponential
families Geyer 2009, for logistic regression Albert and Anderson 1984). They are found by linear programming.

With gamma held, the rows that move in such directions are explained perfectly in the limit and drop out of it: what is
left is the fit of the other rows. That is how a group without failures looks. A direction in which gamma rises is one
of a spread that shrinks to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from survival_service.design import Design, Kind
from survival_service.observations import FloatArray

# Singular values below this, relative to the largest, are none.
_RANK_TOLERANCE = 1e-9
# Moves smaller than this, in rows scaled to one, are rounding of the linear programs.
_STILL = 1e-6
# More distinct rows than this are not asked whether their spread can shrink: that program is a dense one.
_MOST_ROWS = 5_000


@dataclass(frozen=True, slots=True, eq=False)
class Recession:
    """All directions together in which a log-likelihood rises for ever with the spread held.

    `receding` marks the observations that the limit explains perfectly, `at_zero` says whether failures at a first
    check are among them. `least` and `greatest` are -1, 0 or 1: where the coefficients (intercept first) can go.
    """

    receding: NDArray[np.bool_]
    at_zero: bool
    least: NDArray[np.int64]
    greatest: NDArray[np.int64]


def recession(design: Design, observation_count: int, *, held: int | None = None) -> Recession | None:
    """The directions of recession with gamma held and, if wanted, one covariate's effect; None if there is none."""
    columns = -design.terms[:-1].T
    bounds = design.bounds
    exact, right, left, between = (slice(bounds[kind], bounds[kind + 1]) for kind in Kind)
    fixed = np.concatenate([columns[exact], columns[between]])
    if held is not None:
        fixed = np.concatenate([fixed, np.eye(columns.shape[1])[held + 1 : held + 2]])
    free = _null_space(fixed)
    if not free.shape[1]:
        return None
    moves = np.concatenate([columns[right] @ free, -columns[left] @ free])
    size = np.abs(moves).max(axis=1)
    moving = size > _STILL
    distinct = np.unique(np.round(moves[moving] / size[moving, None], 9), axis=0)
    directions = _directions(distinct)
    if not directions:
        return None
    receding = np.zeros(observation_count, dtype=bool)
    positions = np.concatenate([design.rows[right], design.rows[left]])
    going = moving & (moves @ np.array(directions).T > _STILL * size[:, None]).any(axis=1)
    receding[positions[going]] = True
    # In natural units the intercept goes against the means of the columns, the slopes as they are.
    natural = free.copy()
    natural[0] -= (design.column_mean / design.column_scale) @ free[1:]
    ends = [[_extreme(distinct, sign * row) for row in natural] for sign in (-1.0, 1.0)]
    return Recession(
        receding=receding,
        at_zero=bool(going[right.stop - right.start :].any()),
        least=-np.array(ends[0], dtype=np.int64),
        greatest=np.array(ends[1], dtype=np.int64),
    )


def spread_collapses(design: Design) -> bool:
    """Whether a direction of recession lets gamma rise: one moment for each setting could hold all its failures."""
    bounds, width = design.bounds, design.term_size
    exact, right, left, between = (slice(bounds[kind], bounds[kind + 1]) for kind in Kind)
    rows = design.terms.T  # z of a direction is its product with this
    half = np.zeros((between.stop - between.start, width))
    half[:, -1] = design.half
    lower, upper = rows[between] - half, rows[between] + half
    risen = np.unique(np.round(np.concatenate([rows[right], lower, -rows[left], -upper]), 12), axis=0)
    still = np.unique(np.round(rows[exact], 12), axis=0)
    if len(risen) + len(still) > _MOST_ROWS:
        return False
    from scipy.optimize import linprog

    aim = np.zeros(width)
    aim[-1] = -1.0
    found = linprog(
        aim,
        A_ub=risen if len(risen) else None,
        b_ub=np.zeros(len(risen)) if len(risen) else None,
        A_eq=still if len(still) else None,
        b_eq=np.zeros(len(still)) if len(still) else None,
        bounds=[(-1e3, 1e3)] * (width - 1) + [(0.0, 1.0)],
    )
    return bool(found.success and -found.fun > _STILL)


def _null_space(matrix: FloatArray) -> FloatArray:
    """An orthonormal basis, in columns, of what a matrix sends to zero."""
    width = matrix.shape[1]
    if not matrix.shape[0]:
        return np.eye(width)
    triangle = qr(matrix, mode="r", check_finite=False)[0][:width]
    _, sizes, directions = np.linalg.svd(triangle, full_matrices=True)
    rank = int((sizes > _RANK_TOLERANCE * sizes[0]).sum())
    basis: FloatArray = directions[rank:].T
    return basis


def _directions(moves: FloatArray) -> list[FloatArray]:
    """Directions that move no row back and, between them, every row forward that any such direction moves."""
    found: list[FloatArray] = []
    waiting = np.ones(len(moves), dtype=bool)
    while waiting.any():
        direction = _best(moves, moves[waiting].sum(axis=0))
        if direction is None:
            break
        forward = waiting & (moves @ direction > _STILL)
        if not forward.any():
            break
        found.append(direction)
        waiting &= ~forward
    return found


def _extreme(moves: FloatArray, aim: FloatArray) -> int:
    """1 if some direction that moves no row back rises along `aim`, else 0."""
    if np.abs(aim).max() < _STILL:
        return 0
    direction = _best(moves, aim)
    return int(direction is not None and aim @ direction > _STILL)


def _best(moves: FloatArray, aim: FloatArray) -> FloatArray | None:
    """The direction in a box that moves no row back and goes farthest along `aim`."""
    # Imported where it is needed, which is rarely: it costs as much as several fits.
    from scipy.optimize import linprog

    width = moves.shape[1]
    found = linprog(
        -aim / max(1.0, float(np.abs(aim).max())), A_ub=-moves, b_ub=np.zeros(len(moves)), bounds=[(-1, 1)] * width
    )
    return np.asarray(found.x, dtype=np.float64) if found.success else None
