"""Likelihood-ratio tests within the generalised gamma family: which simpler distribution is enough.

Exponential in Weibull (sigma = 1), and Weibull (Q = 1), log-normal (Q = 0) and gamma (Q = sigma) in the generalised
gamma distribution (Prentice 1974): each lies inside the larger one, not at an end of it, so twice the log-likelihood
gained is chi-squared of one degree of freedom (Wilks 1938). Of rows in clusters it is not, and has no p-value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import chdtrc

from survival_service.distributions import Distribution
from survival_service.fits import Fit
from survival_service.fitted_rows import merged
from survival_service.fitting import fit
from survival_service.preparing import Prepared, prepared
from survival_service.wording import DISTRIBUTIONS

ALPHA = 0.05
PAIRS = (
    (Distribution.EXPONENTIAL, Distribution.WEIBULL),
    (Distribution.WEIBULL, Distribution.GENERALIZED_GAMMA),
    (Distribution.LOG_NORMAL, Distribution.GENERALIZED_GAMMA),
    (Distribution.GAMMA, Distribution.GENERALIZED_GAMMA),
)
# The generalised gamma that nobody asked for is fitted where that takes hundredths of a second: to so few distinct
# rows. The gamma takes longer and is fitted if it was asked for only.
CELL_LIMIT = 150
# Of more rows than this equal ones are not looked for.
MERGED_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class NestingTest:
    """Whether the wider distribution fits better than the narrower one within it. Fields are the contract's.

    `finding` says it in a sentence, or why there are no numbers.
    """

    narrow: Distribution
    wide: Distribution
    statistic: float | None = None
    degrees_of_freedom: int = 1
    p_value: float | None = None
    finding: str = ""


def nesting_tests(fits: Sequence[Fit], rows: Prepared) -> tuple[NestingTest, ...]:
    """The tests of all nested pairs, in the order of `PAIRS`."""
    known = {one.distribution: one for one in fits}
    clustered = rows.observations.cluster is not None
    observations, clock = rows.observations, fits[0].clock if fits else None
    cells = merged(observations) if observations.lower.size <= MERGED_LIMIT else observations
    laid_out: Prepared | None = None

    def of(distribution: Distribution) -> Fit | None:
        nonlocal laid_out
        few = cells.lower.size <= CELL_LIMIT and distribution is not Distribution.GAMMA
        if distribution not in known and (few or not distribution.with_shape):
            laid_out = laid_out or prepared(cells)
            known[distribution] = fit(laid_out, distribution, clock=clock)
        return known.get(distribution)

    return tuple(_test(of(narrow), of(wide), narrow, wide, clustered=clustered) for narrow, wide in PAIRS)


def _test(
    inner: Fit | None, outer: Fit | None, narrow: Distribution, wide: Distribution, *, clustered: bool
) -> NestingTest:
    small, large = DISTRIBUTIONS[narrow], DISTRIBUTIONS[wide]
    for one, of, word in ((inner, narrow, small), (outer, wide, large)):
        if one is None:
            name = of.name.lower().replace("_", "-")
            return NestingTest(
                narrow,
                wide,
                finding=f"not tested, for the {word} distribution was not fitted, which takes long; ask for it with "
                f"--distribution {name}",
            )
        if not one.has_numbers:
            return NestingTest(
                narrow, wide, finding=f"not tested, for the {word} fit has no numbers: {one.status_message}"
            )
    if inner is None or outer is None:
        raise AssertionError("both were looked at")
    gained = outer.log_likelihood - inner.log_likelihood
    # A search may end a rounding below the narrower maximum, which the wider distribution contains.
    statistic = max(0.0, 2.0 * gained)
    if gained < -1e-3:
        return NestingTest(narrow, wide, finding=f"not tested: the {large} fit did not reach its maximum")
    if clustered:
        return NestingTest(
            narrow,
            wide,
            statistic,
            1,
            None,
            "no p-value: rows of one cluster are not independent, as it would take them",
        )
    p_value = float(chdtrc(1, statistic))
    finding = (
        f"the {large} distribution fits better: the data rule the {small} one out"
        if p_value < ALPHA
        else f"the {small} distribution is enough: the {large} one fits no better"
    )
    return NestingTest(narrow, wide, statistic, 1, p_value, finding)
