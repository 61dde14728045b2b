"""Observations laid out for fits, once for every distribution; what is left of them where a fit has but a limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from survival_service.covariates import independent_columns
from survival_service.design import Design
from survival_service.observations import IntArray, Observations
from survival_service.recession import Recession, recession


@dataclass(frozen=True, eq=False)
class Prepared:
    """Observations laid out once for every distribution that is fitted to them. Made by `prepared`.

    `observations` have the covariates that can be told apart only, `dropped` a sentence for each other one. `design`
    is None where nothing failed. Not slotted, since it keeps its limit once that was asked for.
    """

    observations: Observations
    dropped: tuple[str, ...]
    design: Design | None
    observation_count: float
    failure_count: float

    @cached_property
    def limit(self) -> Limit | None:
        """What is left where the likelihood rises for ever in some effect; None where it does not."""
        return None if self.design is None else _limit(self.observations, self.design)


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """The observations that the limit of a likelihood does not explain perfectly, laid out for fits.

    `affected` are the covariates whose effects grow or may grow beyond bounds. `renamed` says what the coefficients of
    those are in the limit that are still estimated there, against another group than before.
    """

    rows: Prepared
    recession: Recession
    affected: tuple[str, ...]
    renamed: dict[str, str]


def prepared(observations: Observations) -> Prepared:
    """Lay observations out for fits. Constant and collinear covariates are dropped and named."""
    n, failures = observations.observation_count, observations.failure_count
    dropped = observations.dropped
    design = Design.of(observations) if failures else None
    if observations.names and (design is None or not design.clearly_independent):
        kept, aliased = independent_columns(observations.covariates, observations.names, observations.weight)
        dropped += aliased
        if len(kept) < len(observations.names):
            observations = observations.with_columns(kept)
            design = Design.of(observations) if failures else None
    return Prepared(observations, dropped, design, n, failures)


def some(observations: Observations, chosen: NDArray[np.bool_] | IntArray) -> Observations:
    """Some of the rows of observations."""
    return replace(
        observations,
        lower=observations.lower[chosen],
        upper=observations.upper[chosen],
        weight=observations.weight[chosen],
        covariates=observations.covariates[chosen],
        cluster=None if observations.cluster is None else observations.cluster[chosen],
        check=None if observations.check is None else observations.check[chosen],
        configuration=None if observations.configuration is None else observations.configuration[chosen],
    )


def _limit(observations: Observations, design: Design) -> Limit | None:
    found = recession(design, observations.lower.size)
    if found is None:
        return None
    rows = prepared(some(observations, ~found.receding))
    names = observations.names
    affected = tuple(name for name, a, b in zip(names, found.least[1:], found.greatest[1:], strict=True) if a or b)
    gone = [name for name in affected if name not in rows.observations.names]
    left = [name for name in affected if name in rows.observations.names]
    return Limit(rows, found, affected, {name: f"{name}, against {' and '.join(gone)}" for name in left})
