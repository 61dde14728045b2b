"""Our fits against lifelines' and, where R is installed, survreg's: CPU time, interleaved, the same maximum checked.

    python benchmarks/fitting.py [--quick] [--check] [--repeats 5] [--slow-repeats 5]

Rows: times with ten covariates, 20 % right-censored, 1e3 to 1e6 of them. Table: 1e6 samples of a thousand
configurations, checked 40 times: as a count table here, building it included, and as interval-censored rows in
lifelines; a warm refresh adds the next 1 % of the samples to a table and fits it again from the last fit. Memory: what
a fit of 1e6 rows adds to the peak of a fresh process.

Prints medians and ratios, then whether each demand was met; with --check exits with 1 if one was not. A demand is also
that none of the others finds a higher likelihood. --quick leaves out what takes minutes: rows beyond 1e4, and the
table and the memory are small then and not judged. R is asked through its own process (`apt-get install r-base-core
r-cran-survival`), which times itself.
"""

from __future__ import annotations

import os

# Before numpy is imported: fits work on small blocks, at which a second thread only takes time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lifelines
import numpy as np
import pandas as pd
import scipy

from survival_service.count_table import NEVER, CheckedSamples, CountTable
from survival_service.distributions import Distribution
from survival_service.fitting import Fit, Status, fit
from survival_service.observations import FloatArray, IntArray, Observations

FITTERS: dict[Distribution, Any] = {
    Distribution.WEIBULL: lifelines.WeibullAFTFitter,
    Distribution.LOG_NORMAL: lifelines.LogNormalAFTFitter,
    Distribution.LOG_LOGISTIC: lifelines.LogLogisticAFTFitter,
}
COLUMN_COUNT = 10
SLOW_ROWS = 1_000_000
NAMES = tuple(f"x{j}" for j in range(COLUMN_COUNT))
EFFECTS = np.linspace(-0.4, 0.4, COLUMN_COUNT)

LIFELINES_WANTED = {1_000: 70.0, 10_000: 15.0, 100_000: 6.5, 1_000_000: 7.0}
SURVREG_WANTED = 3.0
TABLE_WANTED, REFRESH_WANTED = 350.0, 1300.0
MEMORY_WANTED = 3.0
# Nats that another's log-likelihood may lie above ours, per unit of its size: the rounding of a long sum.
SHORT = 1e-9

SURVREG = r"""
suppressMessages(library(survival))
input <- file("stdin", "r")
cat("ready", as.character(packageVersion("survival")), R.version.string, "\n"); flush(stdout())
while (length(words <- strsplit(readLines(input, n = 1), " ")) > 0) {
  words <- words[[1]]
  if (words[1] == "load") {
    n <- as.integer(words[3]); values <- readBin(words[2], "double", n * 12)
    time <- values[1:n]; died <- values[n + 1:n]; x <- matrix(values[-(1:(2 * n))], nrow = n); rm(values)
    cat("loaded\n")
  } else {
    gc(); calls <- as.integer(words[3]); before <- proc.time()
    for (call in 1:calls) found <- survreg(Surv(time, died) ~ x, dist = words[2])
    used <- (proc.time() - before) / calls
    cat(used[1] + used[2], sprintf("%.17g", found$loglik[2]), "\n")
  }
  flush(stdout())
}
"""


class Survreg:
    """An R process that fits on demand and times itself; None in its place where R or `survival` is missing."""

    def __init__(self, folder: Path, command: str) -> None:
        program = folder / "survreg.R"
        program.write_text(SURVREG)
        self._data = folder / "rows.bin"
        self._process = subprocess.Popen(
            [command, "--vanilla", str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = self._answer()

    @staticmethod
    def start(folder: Path) -> Survreg | None:
        """The process, if it can be had."""
        command = shutil.which("Rscript")
        if command is None:
            return None
        started = Survreg(folder, command)
        return started if started.version.startswith("ready") else None

    def load(self, seen: FloatArray, failed: Any, x: FloatArray) -> None:
        """Give it the rows to fit."""
        with self._data.open("wb") as target:
            for column in (seen, failed, *x.T):
                target.write(np.ascontiguousarray(column, dtype=float).tobytes())
        self._ask(f"load {self._data} {seen.size}")

    def fit(self, distribution: Distribution, calls: int) -> tuple[float, float]:
        """CPU seconds of one of that many calls, and the log-likelihood."""
        seconds, value = self._ask(f"fit {distribution.name.lower().replace('_', '')} {calls}").split()
        return float(seconds), float(value)

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@dataclass(frozen=True)
class Demand:
    """What is demanded, what was measured, and whether that is met."""

    text: str
    figure: str
    met: bool


class Findings:
    """What was measured: printed as it comes, judged in the end."""

    def __init__(self) -> None:
        self.demands: list[Demand] = []

    def ratio(self, what: str, value: float, wanted: float | None) -> str:
        """Note a ratio of which at least `wanted` is demanded, if anything is; in words."""
        if wanted is None:
            return f"{value:7.1f} x"
        self.demands.append(Demand(f"{what}: at least {wanted:g} x", f"{value:.1f} x", value >= wanted))
        return f"{value:7.1f} x (at least {wanted:g} demanded)"

    def gap(self, what: str, theirs: float, ours: float) -> str:
        """Note how far another's log-likelihood lies above ours, which it must not but for rounding; in words."""
        above = theirs - ours
        self.demands.append(
            Demand(f"{what}: no higher likelihood than ours", f"{above:+.0e} nats", above <= SHORT * (1 + abs(ours)))
        )
        return f"{above:+.0e}"

    def verdict(self) -> bool:
        """Print every demand with its figure; whether all were met."""
        print(f"\ndemands, {sum(demand.met for demand in self.demands)} of {len(self.demands)} met")
        for demand in self.demands:
            print(f"  {'met    ' if demand.met else 'NOT MET'}  {demand.text}: {demand.figure}")
        return all(demand.met for demand in self.demands)


def cpu_seconds(work: Callable[[], Any], calls: int = 1) -> tuple[float, Any]:
    start = time.process_time()
    for _ in range(calls):
        result = work()
    return (time.process_time() - start) / calls, result


def standard_log_times(generator: np.random.Generator, distribution: Distribution, n: int) -> FloatArray:
    if distribution is Distribution.WEIBULL:
        return np.log(generator.exponential(size=n))
    return generator.normal(size=n) if distribution is Distribution.LOG_NORMAL else generator.logistic(size=n)


def censored_rows(distribution: Distribution, n: int) -> tuple[FloatArray, Any, FloatArray, Observations]:
    """Times, whether each is a failure, covariates; and all of it as observations."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, COLUMN_COUNT))
    times = np.exp(x @ EFFECTS + 0.6 * standard_log_times(generator, distribution, n))
    end = np.quantile(times, 0.8)
    seen, failed = np.minimum(times, end), times <= end
    return seen, failed, x, Observations(seen, np.where(failed, seen, np.inf), np.ones(n), x, NAMES)


def compare_rows(n: int, repeats: int, slow_repeats: int, survreg: Survreg | None, findings: Findings) -> None:
    # R's clock ticks every millisecond, so a call that takes a few is timed with others like it; so is ours.
    calls = max(1, 20_000 // n)
    for distribution, fitter in FITTERS.items():
        seen, failed, x, data = censored_rows(distribution, n)
        frame = pd.DataFrame(x, columns=list(NAMES)).assign(t=seen, e=failed)
        if survreg:
            survreg.load(seen, failed, x)
        seconds: dict[str, list[float]] = {"ours": [], "lifelines": [], "survreg": []}
        values = dict.fromkeys(seconds, -np.inf)
        fit(data, distribution)
        for repeat in range(repeats):
            spent, found = cpu_seconds(partial(fit, data, distribution), calls)
            assert found.status is Status.OK
            seconds["ours"].append(spent)
            values["ours"] = found.log_likelihood
            if n >= SLOW_ROWS and repeat >= slow_repeats:
                continue
            spent, other = cpu_seconds(partial(fitter(penalizer=0.0).fit, frame, "t", "e"))
            seconds["lifelines"].append(spent)
            values["lifelines"] = float(other.log_likelihood_)
            if survreg:
                spent, values["survreg"] = survreg.fit(distribution, calls)
                seconds["survreg"].append(spent)
        median = {name: statistics.median(of) for name, of in seconds.items() if of}
        print(f"{n:>9,} rows, {distribution.name.lower():12s} ours {median['ours'] * 1e3:8.1f} ms")
        for name, wanted in (("lifelines", LIFELINES_WANTED[n]), ("survreg", SURVREG_WANTED)):
            if name in median:
                what = f"{n:,} rows, {distribution.name.lower()}, {name}"
                print(
                    f"{'':12s}{name:10s} {median[name] * 1e3:9.1f} ms ({len(seconds[name])} repeats) "
                    f"{findings.ratio(what, median[name] / median['ours'], wanted)}"
                    f"  log-likelihood above ours {findings.gap(what, values[name], values['ours'])}",
                    flush=True,
                )


class Samples:
    """Attacked samples of many configurations, each checked up to 40 times."""

    checks = 40

    def __init__(self, configurations: int, samples_each: int) -> None:
        generator = np.random.default_rng(1)
        self.levels = generator.normal(size=(configurations, COLUMN_COUNT))
        self.configuration: IntArray = np.repeat(np.arange(configurations), samples_each)
        drawn = 2.5 + (self.levels @ EFFECTS)[self.configuration]
        drawn += 0.6 * standard_log_times(generator, Distribution.WEIBULL, drawn.size)
        # The check at which each failed; one more than there are, for those that survived all.
        self.failing_check: IntArray = np.minimum(np.ceil(np.exp(drawn)), self.checks + 1).astype(np.int64)

    def __len__(self) -> int:
        return int(self.failing_check.size)

    def checked(self, rows: slice | IntArray) -> CheckedSamples:
        """Some of the samples as a count table takes them."""
        check, configuration = self.failing_check[rows], self.configuration[rows]
        failed = check <= self.checks
        sample = np.arange(len(self))[rows] % (len(self) // len(self.levels))
        last = np.minimum(check, self.checks)
        return CheckedSamples(configuration, sample, check - 1, np.where(failed, check, NEVER), last)

    def rows(self) -> pd.DataFrame:
        """A row a sample, as lifelines takes them; it raises for a lower bound of 0."""
        lower = np.maximum(self.failing_check - 1.0, 1e-9)
        upper = np.where(self.failing_check <= self.checks, self.failing_check, np.inf)
        return pd.DataFrame(self.levels[self.configuration], columns=list(NAMES)).assign(lower=lower, upper=upper)


def table_fit(samples: Samples, table: CountTable, start: Fit | None = None) -> Fit:
    return fit(table.observations(samples.levels, NAMES), Distribution.WEIBULL, start=start)


def compare_table(repeats: int, quick: bool, findings: Findings) -> None:
    samples = Samples(20 if quick else 1000, 500 if quick else 1000)
    frame, everything = samples.rows(), samples.checked(slice(None))
    # The table that grows has what comes before the last batches; a batch is 1 % of all, and samples come in any order.
    order, size = np.random.default_rng(2).permutation(len(samples)), len(samples) // 100
    growing = CountTable()
    growing.add(samples.checked(order[: -repeats * size]))
    batches = [samples.checked(order[len(order) - (repeats - k) * size :][:size]) for k in range(repeats)]
    latest = table_fit(samples, growing)

    def from_nothing() -> Fit:
        table = CountTable()
        table.add(everything)
        return table_fit(samples, table)

    def refresh(batch: CheckedSamples) -> Fit:
        growing.add(batch)
        return table_fit(samples, growing, latest)

    seconds: dict[str, list[float]] = {"table": [], "refresh": [], "lifelines": []}
    steps = []
    for batch in batches:
        spent, found = cpu_seconds(from_nothing)
        seconds["table"].append(spent)
        spent, latest = cpu_seconds(partial(refresh, batch))
        seconds["refresh"].append(spent)
        steps.append(latest.iteration_count)
        spent, other = cpu_seconds(
            lambda: lifelines.WeibullAFTFitter(penalizer=0.0).fit_interval_censoring(frame, "lower", "upper")
        )
        seconds["lifelines"].append(spent)
    assert growing.sample_count == len(samples)  # the last refresh was of the data that the table has from the start
    own, warm, foreign = (statistics.median(of) for of in seconds.values())
    cells = growing.observations().lower.size
    what = f"{len(samples):,} samples in {cells:,} cells"
    print(
        f"{len(samples):>9,} samples, {len(samples.levels)} configurations, {samples.checks} checks, weibull: "
        f"{cells} cells, lifelines on the rows {foreign:.2f} s, "
        f"log-likelihood above ours {findings.gap(what, float(other.log_likelihood_), found.log_likelihood)}"
    )
    findings.gap(f"{what}, warm refresh against the fit from nothing", found.log_likelihood, latest.log_likelihood)
    wanted = (None, None) if quick else (TABLE_WANTED, REFRESH_WANTED)
    cold = findings.ratio(f"{what}, table and fit", foreign / own, wanted[0])
    again = findings.ratio(f"{what}, warm refresh", foreign / warm, wanted[1])
    print(f"{'':12s}table and fit {own * 1e3:8.1f} ms {cold}")
    print(f"{'':12s}warm refresh  {warm * 1e3:8.1f} ms {again}  (1 % more samples, {max(steps)} steps)", flush=True)


def added_memory(which: str, n: int) -> float:
    """MiB that a fit of n rows adds to the peak of this process, which must be fresh."""
    seen, failed, x, data = censored_rows(Distribution.WEIBULL, n)
    frame = None
    if which == "lifelines":
        del data
        frame = pd.DataFrame(x, columns=list(NAMES)).assign(t=seen, e=failed)
        small = frame[:500]
        lifelines.WeibullAFTFitter(penalizer=0.0).fit(small, "t", "e")  # what it imports and compiles is not the fit's
    else:
        fit(censored_rows(Distribution.WEIBULL, 500)[3], Distribution.WEIBULL)
    # The peak so far includes what making the data took: only what is held now counts against the fit.
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again here
    if frame is not None:
        lifelines.WeibullAFTFitter(penalizer=0.0).fit(frame, "t", "e")
    else:
        fit(data, Distribution.WEIBULL)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    return (peak - held) / 2**20


def compare_memory(quick: bool, findings: Findings) -> None:
    if not Path("/proc/self/clear_refs").exists():
        print("memory: skipped, this system cannot reset a process's peak")
        return
    n = 10**5 if quick else 10**6
    found = []
    for which in ("ours", "lifelines"):
        child = subprocess.run(
            [sys.executable, __file__, "--memory-of", which, str(n)], capture_output=True, text=True, check=True
        )
        found.append(float(child.stdout))
    own, foreign = found
    print(
        f"{n:>9,} rows: extra memory ours {own:.0f} MiB, lifelines {foreign:.0f} MiB "
        f"{findings.ratio(f'{n:,} rows, memory', foreign / max(own, 1e-9), None if quick else MEMORY_WANTED)}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats of every cell, at least 5")
    parser.add_argument("--slow-repeats", type=int, default=5, help="repeats of the others at 1e6 rows, minutes each")
    parser.add_argument("--quick", action="store_true", help="up to 1e4 rows, a small table: about a minute")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a demand was not met")
    parser.add_argument("--memory-of", nargs=2, metavar=("WHICH", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    # lifelines warns of its own numerics; the maximum it finds is compared below.
    warnings.simplefilter("ignore")
    if options.memory_of:
        print(added_memory(options.memory_of[0], int(options.memory_of[1])))
        return 0
    repeats = max(5, options.repeats)
    findings = Findings()
    with tempfile.TemporaryDirectory() as folder:
        survreg = Survreg.start(Path(folder))
        print(
            f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}, lifelines "
            f"{lifelines.__version__}, {platform.machine()}; medians of {repeats} interleaved repeats, CPU time"
        )
        if survreg:
            print(f"survreg: survival {survreg.version.removeprefix('ready ')}")
        else:
            print("survreg: skipped, R or its package survival is not installed (r-base-core r-cran-survival)")
        compare_table(repeats, options.quick, findings)
        compare_memory(options.quick, findings)
        for n in (1_000, 10_000) if options.quick else LIFELINES_WANTED:
            compare_rows(n, repeats, options.slow_repeats, survreg, findings)
        if survreg:
            survreg.close()
    met = findings.verdict()
    return 1 if options.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
