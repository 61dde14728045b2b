"""How often nominal 95 % intervals hold the truth: the table of docs/coverage.md, simulated.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py [--replicates 2000] [STUDY ...]

Each replicate draws times T = exp(mu + beta x + sigma epsilon) from a known law, looks at them as an attack does, at
checks evenly spaced up to a budget, fits the same law and asks whether the intervals hold the true values. Studies:

- `groups`: two groups of which the slower one has 30 (or 100) failures on average, the other one's times 0.6 times as
  long, 10 to 40 checks; half or nine tenths of the slower group fail. `groups as reported`: one of these settings with
  the intervals of a report, by profile likelihood.
- `clusters`: images attacked in eight jobs each, times of one image correlated by a Gaussian copula (so that their own
  law stays the fitted one); a covariate of the image and one of the job. `naive` is the same fit without clusters.
- `few`: one in ten samples fails. `Wald` is the interval of so many standard errors of the logarithm of the quantity,
  `plain` that of the median itself, `profile` what a report gives.
- `cured`: the clustered interval of the share that never fails, where its logit has a standard error of at most 1, 2,
  4 and any; how often a fit has such an interval stands beside it.
- `in flight`: a job stopped in mid-run, fitted with and without the samples still under attack; half of all fail.

Replicate i of a cell is drawn from seed (SEED, cell, i), whatever is run beside it. The Monte-Carlo error of a share of
.95 in 2 000 is .005. Replicates with a status instead of a two-sided interval are counted apart.
"""

from __future__ import annotations

import argparse
import math
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import numpy as np
from scipy.optimize import brentq
from scipy.special import logit, ndtr, ndtri

from survival_service import cure
from survival_service.distributions import Distribution
from survival_service.estimates import Estimate
from survival_service.fitting import Fit, Status, described, fit, prepared
from survival_service.observations import FloatArray, Observations

SEED = 20240131
REPLICATES = 2000
DISTRIBUTIONS = (Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC, Distribution.EXPONENTIAL)
NAMES = ("Weibull", "log-normal", "log-logistic", "exponential")
MU, SIGMA, RATIO = 1.0, 0.7, 0.6
QUANTILE = 1.959963984540054
LOGIT_ERRORS = (1.0, 2.0, 4.0, math.inf)


@dataclass(slots=True)
class Cell:
    """One line of the table: the sum of each quantity over the replicates that had it, and how many those were.

    Of an interval the quantity is whether it holds the truth.
    """

    study: str
    distribution: Distribution
    setting: str
    replicates: int
    failures: float = 0.0
    total: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    given: Counter[str] = field(default_factory=Counter)

    def mean(self, quantity: str) -> float:
        """The share of the intervals that hold the truth, or the mean of what is a share itself."""
        return self.total[quantity] / self.given[quantity]

    def add(self, quantity: str, value: float) -> None:
        """Count one replicate."""
        self.given[quantity] += 1
        self.total[quantity] += value

    def judge(self, quantity: str, interval: Estimate, truth: float) -> None:
        """Count whether an interval holds the truth, if there is one."""
        if interval.lower is not None and interval.upper is not None:
            self.add(quantity, interval.lower <= truth <= interval.upper)


def generators(cell: Cell) -> Iterator[np.random.Generator]:
    """A random stream for each replicate of a cell."""
    name = zlib.crc32(f"{cell.study} {cell.distribution.name} {cell.setting}".encode())
    for i in range(cell.replicates):
        yield np.random.default_rng((SEED, name, i))


def sigma_of(distribution: Distribution) -> float:
    """The scale of the simulated times."""
    return 1.0 if distribution.scale_fixed else SIGMA


def epsilon(distribution: Distribution, generator: np.random.Generator, n: int) -> FloatArray:
    """Standardised log times."""
    if distribution is Distribution.LOG_NORMAL:
        return generator.normal(size=n)
    if distribution is Distribution.LOG_LOGISTIC:
        return generator.logistic(size=n)
    return np.log(generator.exponential(size=n))


def standardised(distribution: Distribution, u: FloatArray) -> FloatArray:
    """The quantiles of the standardised log time at u, which a copula gives."""
    if distribution is Distribution.LOG_NORMAL:
        return np.asarray(ndtri(u))
    if distribution is Distribution.LOG_LOGISTIC:
        return np.asarray(logit(u))
    return np.log(-np.log1p(-u))


def checked(times: FloatArray, budget: float, checks: int) -> tuple[FloatArray, FloatArray]:
    """Between which of the evenly spaced checks each failed."""
    every = budget / checks
    check = np.ceil(times / every)
    seen = check <= checks
    return np.where(seen, check - 1, checks) * every, np.where(seen, check * every, math.inf)


def median_of(distribution: Distribution, mu: float) -> float:
    """The true median of times with this location."""
    return math.exp(mu + sigma_of(distribution) * distribution.family.quantile(0.5))


def groups(
    distribution: Distribution, events: int, share: float, checks: int, replicates: int, *, reported: bool = False
) -> Cell:
    """Two groups, the slower with `events` failures on average, of `share` of its samples.

    The intervals are those of standard errors or, `reported`, those a report gives.
    """
    cell = Cell("groups", distribution, f"{events} failures, {share:.0%} fail, {checks} checks", replicates)
    n, sigma, beta = round(events / share), sigma_of(distribution), math.log(RATIO)
    x = np.repeat([0.0, 1.0], n)
    budget = math.exp(MU + sigma * distribution.family.quantile(share))
    median = median_of(distribution, MU + beta / 2)
    for generator in generators(cell):
        times = np.exp(MU + beta * x + sigma * epsilon(distribution, generator, 2 * n))
        lower, upper = checked(times, budget, checks)
        data = Observations(lower, upper, np.ones(2 * n), x[:, None], ("group",)).merged()
        found = described(fit(data, distribution), data) if reported else fit(data, distribution)
        cell.failures += found.failure_count / replicates
        if found.status is Status.OK:
            cell.judge("median", found.median, median)
            cell.judge("time ratio", found.coefficients[1].time_ratio, RATIO)
    return cell


def clusters(distribution: Distribution, images: int, correlation: float, replicates: int) -> Cell:
    """Images attacked in eight jobs each; `hard` belongs to the image, `attack` to the job."""
    jobs, checks = 8, 20
    cell = Cell("clusters", distribution, f"{images} images", replicates)
    sigma, beta = sigma_of(distribution), math.log(RATIO)
    image = np.repeat(np.arange(images), jobs)
    hard, attack = (image % 2).astype(float), np.tile(np.arange(jobs) % 2, images).astype(float)
    x = np.column_stack([hard, attack])
    budget = math.exp(MU + sigma * distribution.family.quantile(0.7))
    median = median_of(distribution, MU + beta)
    for generator in generators(cell):
        shared = generator.normal(size=images)[image]
        latent = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * generator.normal(size=image.size)
        times = np.exp(MU + beta * x.sum(axis=1) + sigma * standardised(distribution, ndtr(latent)))
        lower, upper = checked(times, budget, checks)
        data = Observations(lower, upper, np.ones(image.size), x, ("hard", "attack"), image)
        for prefix, rows in (("", data), ("naive ", replace(data, cluster=None))):
            found = fit(rows, distribution)
            cell.failures += 0.5 * found.failure_count / replicates
            if found.status is Status.OK:
                cell.judge(prefix + "median", found.median, median)
                cell.judge(prefix + "effect of the image", found.coefficients[1].time_ratio, RATIO)
                cell.judge(prefix + "effect of the job", found.coefficients[2].time_ratio, RATIO)
    return cell


def few(distribution: Distribution, samples: int, replicates: int) -> Cell:
    """One sample in ten fails, 20 checks, a covariate of two values."""
    cell = Cell("few", distribution, f"{samples} samples", replicates)
    sigma, beta, checks = sigma_of(distribution), math.log(RATIO), 20
    x = np.tile([0.0, 1.0], samples // 2)
    budget = _budget(distribution, 0.1)
    median = median_of(distribution, MU + beta / 2)
    for generator in generators(cell):
        times = np.exp(MU + beta * x + sigma * epsilon(distribution, generator, x.size))
        lower, upper = checked(times, budget, checks)
        rows = prepared(Observations(lower, upper, np.ones(x.size), x[:, None], ("group",)).merged())
        found = fit(rows, distribution)
        cell.failures += found.failure_count / replicates
        if found.status is not Status.OK:
            continue
        reported = described(found, rows)
        cell.judge("median, profile", reported.median, median)
        cell.judge("median, Wald", _wald(found), median)
        cell.judge("median, plain", _plain(found), median)
        cell.judge("time ratio, profile", reported.coefficients[1].time_ratio, RATIO)
        cell.judge("time ratio, Wald", found.coefficients[1].time_ratio, RATIO)
    return cell


def _budget(distribution: Distribution, share: float) -> float:
    """The time by which this share of both groups together has failed."""
    sigma = sigma_of(distribution)

    def excess(log_time: float) -> float:
        z = (log_time - MU - np.array([0.0, math.log(RATIO)])) / sigma
        return float(1 - distribution.family.survival(z).mean() - share)

    return math.exp(brentq(excess, -20, 20))


def _wald(found: Fit) -> Estimate:
    value, error = found.median.value, found.median.log_standard_error
    if value is None or error is None:
        return Estimate()
    return Estimate(value, value * math.exp(-QUANTILE * error), value * math.exp(QUANTILE * error))


def _plain(found: Fit) -> Estimate:
    value, error = found.median.value, found.median.log_standard_error
    if value is None or error is None:
        return Estimate()
    return Estimate(value, value * (1 - QUANTILE * error), value * (1 + QUANTILE * error))


def cured(distribution: Distribution, images: int, share: float, replicates: int) -> Cell:
    """Images attacked in eight jobs each until 99 % of those that can fail have failed; `share` of them never do.

    Whether a sample can fail and when are each correlated by 0.5 between the jobs on an image.
    """
    jobs, checks, correlation = 8, 20, 0.5
    cell = Cell("cured", distribution, f"{images} images, {share:.0%} never fail", replicates)
    image = np.repeat(np.arange(images), jobs)
    budget = math.exp(MU + sigma_of(distribution) * distribution.family.quantile(0.99))
    for generator in generators(cell):
        of_image, own = generator.normal(size=(2, images)), generator.normal(size=(2, image.size))
        never, when = ndtr(math.sqrt(correlation) * of_image[:, image] + math.sqrt(1 - correlation) * own)
        times = np.exp(MU + sigma_of(distribution) * standardised(distribution, when))
        lower, upper = checked(np.where(never < share, math.inf, times), budget, checks)
        rows = prepared(Observations(lower, upper, np.ones(image.size), np.empty((image.size, 0)), (), image))
        # Those too uncertain to be reported are what the study is about.
        with patch.object(cure, "LARGEST_LOGIT_ERROR", math.inf):
            found = cure.fit_cure(rows, fit(rows, distribution))
        cell.failures += rows.failure_count / replicates
        for most in LOGIT_ERRORS:
            chosen = found.status is cure.CureStatus.OK and found.logit_standard_error <= most
            cell.add(f"error ≤ {most:g}: has one", chosen)
            if chosen:
                cell.judge(f"error ≤ {most:g}: covered", found.cured_share, share)
    return cell


def mid_run(distribution: Distribution, replicates: int) -> Cell:
    """400 samples through 64 slots, a slot refilled as soon as it is free; stopped at 1.05 times a survivor's length.

    Half of the samples fail within the budget, most of them early. The share is that which fails by then, as fitted.
    """
    cell = Cell("in flight", distribution, "400 samples, 64 slots", replicates)
    samples, slots, checks = 400, 64, 40
    sigma = 1.0 if distribution.scale_fixed else 2.0
    median = budget = math.exp(MU + sigma * distribution.family.quantile(0.5))
    for generator in generators(cell):
        times = np.exp(MU + sigma * epsilon(distribution, generator, samples))
        check = np.ceil(times * checks / budget)
        begin, free = np.zeros(samples), np.zeros(slots)
        for i in range(samples):
            slot = int(free.argmin())
            begin[i], free[slot] = free[slot], free[slot] + min(check[i], checks)
        survived = np.minimum(1.05 * checks - begin, checks)  # checks so far, were there no failure
        failed, started = check <= survived, survived > 0
        lower = np.where(failed, check - 1, survived) * budget / checks
        upper = np.where(failed, check * budget / checks, math.inf)
        completed = failed | (survived == checks)
        cell.failures += float((failed & started).sum()) / replicates
        cell.add("share, counted among the completed", float(failed[started & completed].mean()))
        for name, chosen in (("all", started), ("the completed", started & completed)):
            n = int(chosen.sum())
            found = fit(Observations(lower[chosen], upper[chosen], np.ones(n), np.empty((n, 0))).merged(), distribution)
            if found.status is Status.OK:
                cell.judge(f"median from {name}", found.median, median)
                z = (math.log(budget) - found.coefficients[0].estimate) / found.scale
                cell.add(f"share from {name}", 1 - float(distribution.family.survival(np.array([z]))[0]))
    return cell


def of_groups(replicates: int) -> Iterator[Cell]:
    """All cells of the study of groups."""
    for distribution in DISTRIBUTIONS:
        for events, share, checks in ((30, 0.5, 10), (30, 0.5, 20), (30, 0.5, 40), (30, 0.9, 20), (100, 0.5, 20)):
            yield groups(distribution, events, share, checks, replicates)


def of_reported_groups(replicates: int) -> Iterator[Cell]:
    """One cell a distribution, with the intervals of a report."""
    for distribution in DISTRIBUTIONS:
        yield groups(distribution, 30, 0.5, 20, replicates, reported=True)


def of_clusters(replicates: int) -> Iterator[Cell]:
    """All cells of the study of clusters."""
    for distribution in DISTRIBUTIONS:
        for images in (20, 50, 150):
            yield clusters(distribution, images, 0.5, replicates)


def of_few(replicates: int) -> Iterator[Cell]:
    """All cells of the study of few failures."""
    for distribution in DISTRIBUTIONS:
        for samples in (100, 200, 400):
            yield few(distribution, samples, replicates)


def of_cured(replicates: int) -> Iterator[Cell]:
    """Shares from rare to common, of one law."""
    for images in (20, 50, 150):
        for share in (0.01, 0.03, 0.1, 0.3):
            yield cured(Distribution.WEIBULL, images, share, replicates)


def of_mid_run(replicates: int) -> Iterator[Cell]:
    """All cells of the study of jobs stopped in mid-run."""
    for distribution in DISTRIBUTIONS:
        yield mid_run(distribution, replicates)


STUDIES: dict[str, Callable[[int], Iterator[Cell]]] = {
    "groups": of_groups,
    "groups as reported": of_reported_groups,
    "clusters": of_clusters,
    "few": of_few,
    "cured": of_cured,
    "in flight": of_mid_run,
}


def table(cells: Sequence[Cell]) -> str:
    """The cells as Markdown: a share in per cent of every quantity, and the replicates without an interval."""
    quantities = list(dict.fromkeys(name for cell in cells for name in cell.given))
    lines = ["| Distribution | Setting | failures | " + " | ".join(quantities) + " | no interval |"]
    lines.append("|" + "---|" * (len(quantities) + 4))
    for cell in cells:
        name = NAMES[DISTRIBUTIONS.index(cell.distribution)]
        shares = [f"{100 * cell.mean(quantity):.1f}" for quantity in quantities]
        missing = cell.replicates - min(cell.given.values())
        lines.append(f"| {name} | {cell.setting} | {cell.failures:.0f} | " + " | ".join(shares) + f" | {missing} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="*", default=[], choices=[*STUDIES, []], help="all of them without one")
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    arguments = parser.parse_args()
    for name in arguments.study or STUDIES:
        begin = time.process_time()
        cells = list(STUDIES[name](arguments.replicates))
        print(f"\n{name}: {arguments.replicates} replicates, seed {SEED}, {time.process_time() - begin:.0f} s\n")
        print(table(cells), flush=True)


if __name__ == "__main__":
    main()
