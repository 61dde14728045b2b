"""Our fits against lifelines': CPU seconds, interleaved in one process, the same maximum checked.

    OMP_NUM_THREADS=1 python benchmarks/fitting.py [--repeats 5]

Rows: Weibull times with ten covariates, 20 % right-censored, 1e3 and 1e4 of them. Table: 1e5 samples of a hundred
configurations, checked 40 times, as counts here and as interval-censored rows there (1e4 of them: lifelines takes
minutes for all). Prints medians and the ratio lifelines / ours; nothing leaves this process.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import lifelines
import numpy as np
import pandas as pd
import scipy

from survival_service.distributions import Distribution
from survival_service.fitting import fit
from survival_service.observations import Observations

FITTERS: dict[Distribution, Any] = {
    Distribution.WEIBULL: lifelines.WeibullAFTFitter,
    Distribution.LOG_NORMAL: lifelines.LogNormalAFTFitter,
    Distribution.LOG_LOGISTIC: lifelines.LogLogisticAFTFitter,
}
LOCATION = {Distribution.WEIBULL: "lambda_", Distribution.LOG_NORMAL: "mu_", Distribution.LOG_LOGISTIC: "alpha_"}
COVARIATE_COUNT = 10


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def compare(name: str, repeats: int, ours: Callable[[], Any], theirs: Callable[[], Any], location: str) -> None:
    """Print the medians of interleaved runs, and how far the two log-likelihoods are apart."""
    ours()
    own, other = [], []
    for _ in range(repeats):
        seconds, mine = cpu_seconds(ours)
        own.append(seconds)
        seconds, foreign = cpu_seconds(theirs)
        other.append(seconds)
    a, b = statistics.median(own), statistics.median(other)
    gap = float(foreign.log_likelihood_) - mine.log_likelihood
    estimates = np.array([c.estimate for c in mine.coefficients[1:]])
    errors = np.array([c.standard_error for c in mine.coefficients[1:]])
    names = [c.covariate for c in mine.coefficients[1:]]
    off = np.max(np.abs(foreign.params_[location][names].to_numpy() - estimates) / errors)
    print(
        f"{name:34s} ours {a * 1e3:8.1f} ms  lifelines {b * 1e3:9.1f} ms  ratio {b / a:6.1f}  "
        f"log-likelihood theirs - ours {gap:+.1e}  largest gap {off:.1e} standard errors"
    )


def times(generator: np.random.Generator, distribution: Distribution, n: int) -> np.ndarray:
    """Standard log times."""
    if distribution is Distribution.WEIBULL:
        return np.log(generator.exponential(size=n))
    return generator.normal(size=n) if distribution is Distribution.LOG_NORMAL else generator.logistic(size=n)


def rows(n: int, repeats: int) -> None:
    for distribution, fitter in FITTERS.items():
        generator = np.random.default_rng(0)
        x = generator.normal(size=(n, COVARIATE_COUNT))
        time_ = np.exp(x @ np.linspace(-0.4, 0.4, COVARIATE_COUNT) + 0.6 * times(generator, distribution, n))
        end = np.quantile(time_, 0.8)
        seen, failed = np.minimum(time_, end), time_ <= end
        names = tuple(f"x{j}" for j in range(COVARIATE_COUNT))
        frame = pd.DataFrame(x, columns=list(names)).assign(t=seen, e=failed)
        data = Observations(seen, np.where(failed, seen, np.inf), np.ones(n), x, names)
        compare(
            f"{distribution.name.lower()} {n} rows",
            repeats,
            lambda d=distribution, o=data: fit(o, d),
            lambda f=fitter, t=frame: f(penalizer=0.0).fit(t, "t", "e"),
            LOCATION[distribution],
        )


def table(repeats: int) -> None:
    """The ratio of seconds a sample: 1e5 samples as a count table, 1e4 of them as rows for lifelines."""
    configurations, checks = 100, 40
    distribution = Distribution.WEIBULL
    generator = np.random.default_rng(1)
    levels = generator.normal(size=(configurations, 3))
    names = ("a", "b", "c")
    for n, fitted in ((10_000, True), (100_000, False)):
        index = generator.integers(configurations, size=n)
        drawn = np.exp(2.5 + levels[index] @ np.array([0.3, -0.2, 0.1]) + 0.6 * times(generator, distribution, n))
        check = np.ceil(drawn)
        failed = check <= checks
        lower, upper = np.where(failed, check - 1, checks), np.where(failed, check, np.inf)

        def build_and_fit(lower: Any = lower, upper: Any = upper, index: Any = index, n: int = n) -> Any:
            cell = index * (checks + 1) + lower.astype(int)
            count = np.bincount(cell, minlength=configurations * (checks + 1))
            used = np.flatnonzero(count)
            low = (used % (checks + 1)).astype(float)
            high = np.where(low < checks, low + 1, np.inf)
            counted = Observations(low, high, count[used].astype(float), levels[used // (checks + 1)], names)
            return fit(counted, distribution)

        if fitted:
            frame = pd.DataFrame(levels[index], columns=list(names)).assign(lo=np.maximum(lower, 1e-9), hi=upper)
            compare(
                f"weibull {n} samples, 40 checks",
                repeats,
                build_and_fit,
                lambda f=frame: lifelines.WeibullAFTFitter(penalizer=0.0).fit_interval_censoring(f, "lo", "hi"),
                LOCATION[distribution],
            )
        else:
            build_and_fit()
            seconds = [cpu_seconds(build_and_fit)[0] for _ in range(repeats)]
            print(f"weibull {n} samples, 40 checks     ours {statistics.median(seconds) * 1e3:8.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats of every pair")
    repeats = parser.parse_args().repeats
    # lifelines warns of its own numerics; the maximum it finds is compared below.
    warnings.simplefilter("ignore")
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}, "
        f"lifelines {lifelines.__version__}, {platform.machine()}, medians of {repeats} interleaved repeats, CPU time"
    )
    for n in (1_000, 10_000):
        rows(n, repeats)
    table(repeats)


if __name__ == "__main__":
    main()
