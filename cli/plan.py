"""`afrctl plan`: how many samples a wanted precision needs, or telling two models apart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from cli.commands import StrictCommand
from cli.errors import Misuse
from cli.options import factor, level, part, positive, survival_address, whole

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import ClockReport, PlanSamplesResponse

_DISTRIBUTIONS = ("weibull", "log-normal", "log-logistic", "exponential")
_FEW_FAILURES = 30
_CURVE = (1.05, 1.1, 1.2, 1.5, 2.0)
# The difference of AIC up to which a fit is not ruled out (Burnham and Anderson 2002), as in reports.
_NOT_RULED_OUT = 4.0


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is taken to be known before the attack; `source` says where it comes from."""

    distribution: str = "weibull"
    scale: float = 0.6
    failure_share: float = 0.7
    check_count: int = 10
    accuracy: float = 1.0
    seconds_per_sample: float | None = None
    source: str = ""
    cured_share: float | None = None
    """The share that never fails, where an earlier report could not do without one: no plan assumes it."""


@click.command(cls=StrictCommand)
@click.option("--precision", "precisions", type=factor, multiple=True, metavar="FACTOR",
              help="The wanted interval, from 1/FACTOR to FACTOR times the estimate; may be given several times.  "
                   "[default: 1.05, 1.1, 1.2, 1.5 and 2]")  # fmt: skip
@click.option("--time-ratio", type=positive, metavar="RATIO",
              help="Two models to tell apart: how many times as long samples of the second survive.")  # fmt: skip
@click.option("--power", type=level, metavar="SHARE",
              help="How probable it shall be that --time-ratio is noticed.  [default: 0.8]")  # fmt: skip
@click.option("--allocation", type=positive, metavar="RATIO",
              help="Samples of the second model for each sample of the first.  [default: 1]")  # fmt: skip
@click.option("--like", "earlier", metavar="REPORT",
              help="Assume what an earlier report found: its id, its report.json or the folder of that. Options of the "
                   "same name win.")  # fmt: skip
@click.option("--failure-share", type=level, metavar="SHARE",
              help="The share of samples that fail within the attack's budget.  [default: 0.7]")  # fmt: skip
@click.option("--checks", type=whole, metavar="COUNT",
              help="How often a sample is checked, evenly over the budget.  [default: 10]")  # fmt: skip
@click.option("--distribution", type=click.Choice(_DISTRIBUTIONS),
              help="The distribution of the times to failure.  [default: weibull]")  # fmt: skip
@click.option("--scale", type=positive, metavar="SIGMA",
              help="The scale sigma of log T = x'beta + sigma epsilon, as fits print it.  [default: 0.6]")  # fmt: skip
@click.option("--accuracy", type=part, metavar="SHARE",
              help="The share of samples that the model classifies correctly before the attack; the others are never "
                   "at risk.  [default: 1]")  # fmt: skip
@click.option("--confidence-level", type=level, metavar="SHARE",
              help="The level of the intervals and of the test.  [default: 0.95]")  # fmt: skip
@click.option("--format", "output_format", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="How to print the plan.")  # fmt: skip
@survival_address
def plan(
    precisions: tuple[float, ...], time_ratio: float | None, power: float | None, allocation: float | None,
    earlier: str | None, failure_share: float | None, checks: int | None, distribution: str | None, scale: float | None,
    accuracy: float | None, confidence_level: float | None, output_format: str, survival_address: str,
) -> None:  # fmt: skip
    """Say how many samples to attack.

    For intervals of a wanted width, and with --time-ratio for telling two models apart, beside what the share of
    failures alone would need, which is what a test accuracy tells. The numbers follow from the information that an
    attack with evenly spaced checks carries about a distribution, so they are as good as what is assumed; `--like`
    takes that from an earlier report. They are of samples at risk, and from them follow those to attack.

    \b
    Example:
      afrctl plan
      afrctl plan --failure-share .7 --checks 10 --precision 1.2
      afrctl plan --time-ratio 1.5 --power .9 --like afr-report
      afrctl plan --like 4f6a0c11 --precision 1.1 --precision 1.3 --format json
    """
    if time_ratio is None:
        for option, value in (("--power", power), ("--allocation", allocation)):
            if value is not None:
                raise Misuse(f"{option} has no effect without --time-ratio: leave it out, or give RATIO too")
    if scale is not None and distribution == "exponential":
        raise Misuse("--scale has no effect on exponential times, whose scale is 1: leave one of the two out")
    if checks == 1:
        raise Misuse("--checks 1: a single check tells a share and no curve; give 2 or more")
    if time_ratio == 1:
        raise Misuse("--time-ratio 1 is no difference: no number of samples can tell two such models apart")
    from afr.survival.v1.survival_service_pb2 import Comparison, PlanSamplesRequest

    from cli.connecting import survival_server
    from cli.locating import fitting_address
    from cli.options import distribution_number

    given = {
        "failure_share": failure_share, "check_count": checks, "distribution": distribution, "scale": scale,
        "accuracy": accuracy,
    }  # fmt: skip
    stated: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with fitting_address(survival_address) as address, survival_server(address) as server:
        assumed = replace(like(earlier, server, stated) if earlier else Assumptions(), **stated)
        request = PlanSamplesRequest(
            distribution=distribution_number(assumed.distribution),
            scale=assumed.scale,
            failure_share=assumed.failure_share,
            check_count=assumed.check_count,
            confidence_level=confidence_level or 0.0,
        )
        if time_ratio is not None:
            wanted = Comparison(time_ratio=time_ratio, power=power or 0.0, allocation_ratio=allocation or 0.0)
            request.comparison.CopyFrom(wanted)
        plans = []
        for one in sorted(set(precisions or _CURVE)):
            request.interval_factor = one
            plans.append((one, server.call(server.stub.PlanSamples, request)))
    at = confidence_level or 0.95
    if output_format == "json":
        click.echo(plan_json(assumed, plans, at, time_ratio, power or 0.8, allocation or 1.0), nl=False)
    else:
        click.echo(plan_text(assumed, plans, at, time_ratio, power or 0.8))


def like(name: str, server: Any, stated: dict[str, Any]) -> Assumptions:
    """What an earlier report found. Raises `Problem` or `Misuse` where it cannot be had, or says too little."""
    from cli.earlier import earlier_report
    from cli.quantities import DISTRIBUTIONS, has_numbers

    report = earlier_report(name, server)
    known = {word.lower(): number for number, word in DISTRIBUTIONS.items()}
    plannable = {known[word]: word for word in _DISTRIBUTIONS}
    fits = [fit for clock in report.clock_reports for fit in clock.fits if has_numbers(fit)]
    best = next((fit for fit in fits if fit.distribution in plannable), None)
    if best is None and "scale" not in stated:
        raise Misuse(f"--like {name}: no fit of that report has a scale; give --scale and --failure-share instead")
    share = report.failure_share.value
    if not 0 < share < 1 and "failure_share" not in stated:
        raise Misuse(
            f"--like {name}: {'all' if share else 'none'} of its samples at risk failed, which plans nothing; give "
            "--failure-share too"
        )
    checks = max((int(job.attack_parameters.get("max_iterations", 0)) for job in report.jobs), default=0)
    if checks < 2 and "check_count" not in stated:
        raise Misuse(f"--like {name}: that report does not say how often its samples were checked; give --checks too")
    at_risk = report.failed_count + report.survived_count
    spent = report.costs.attack_duration.ToNanoseconds() / 1e9
    return Assumptions(
        distribution=plannable[best.distribution] if best else "weibull",
        scale=best.scale if best else 1.0,
        failure_share=share,
        check_count=checks,
        accuracy=at_risk / report.sample_count if report.sample_count else 1.0,
        seconds_per_sample=spent / at_risk if at_risk and spent > 0 else None,
        source=f"report {report.report_id}" if report.report_id else name,
        cured_share=_cured_share(report.clock_reports[0]) if report.clock_reports else None,
    )


def _cured_share(clock: ClockReport) -> float | None:
    """The share that never fails, by the best of the fits with one, if their AIC rules out all without."""
    from afr.survival.v1.survival_service_pb2 import CureFit

    from cli.quantities import has_numbers

    plain = [one.aic for one in clock.fits if has_numbers(one)]
    best = min(
        (one for one in clock.cure_fits if one.status == CureFit.STATUS_OK), key=lambda one: one.aic, default=None
    )
    if best is None or not plain or min(plain) <= best.aic + _NOT_RULED_OUT:
        return None
    return float(best.cured_share.value)


def plan_text(
    assumed: Assumptions,
    plans: Sequence[tuple[float, PlanSamplesResponse]],
    at: float,
    time_ratio: float | None,
    power: float,
) -> str:
    """The plan for people: what is assumed, what each width needs, what telling two models apart needs."""
    from cli.options import distribution_number
    from cli.quantities import NOTHING, count, distribution_word, duration, number, share
    from cli.rendering import paragraph, terminal_columns
    from cli.tables import table

    columns = terminal_columns()

    def of(row: PlanSamplesResponse) -> Iterator[str]:
        yield count(row.median_sample_count)
        yield count(row.expected_sample_count) if row.HasField("expected_sample_count") else NOTHING
        yield count(row.failure_share_sample_count)
        if assumed.accuracy < 1:
            yield count(_to_attack(row.median_sample_count, assumed))
        if assumed.seconds_per_sample is not None:
            yield duration(row.median_sample_count * assumed.seconds_per_sample)

    source = f" (from {assumed.source})" if assumed.source else ""
    sigma = "" if assumed.distribution == "exponential" else f" with σ = {number(assumed.scale)}"
    header = ["interval", "median", "E[T]", "failure share alone"]
    header += ["to attack"] if assumed.accuracy < 1 else []
    header += ["device time"] if assumed.seconds_per_sample is not None else []
    last = f" ({' and '.join(header[4:])}: for the median)" if header[4:] else ""
    name = distribution_word(distribution_number(assumed.distribution))
    assumption = (
        f"Assumed{source}: {name} times{sigma}, {share(assumed.failure_share)} of the samples at risk fail within "
        f"{assumed.check_count} evenly spaced checks. Level {100 * at:g} %."
    )
    caption = f"Samples at risk for an interval as narrow as this, by what it is of{last}:"
    blocks = [
        paragraph(assumption, columns),
        f"{paragraph(caption, columns)}\n"
        + table(header, [(f"×/÷ {number(one)}", *of(row)) for one, row in plans], right=range(1, len(header))),
        *(paragraph(note, columns) for note in _notes(assumed, plans)),
    ]
    if time_ratio is not None:
        found = plans[0][1].comparison
        rows = [
            (
                "times to failure", count(found.first_sample_count), count(found.second_sample_count),
            ),
            (
                "failure shares alone",
                *(
                    count(value) if found.HasField("first_failure_share_sample_count") else NOTHING
                    for value in (found.first_failure_share_sample_count, found.second_failure_share_sample_count)
                ),
            ),
        ]  # fmt: skip
        caption = (
            f"To tell a model from one whose samples survive {number(time_ratio)} times as long (of them "
            f"{share(found.second_failure_share)} fail within the budget), with a probability of {100 * power:g} %, at "
            "risk:"
        )
        compared = table(("by", "first model", "second model"), rows, right=(1, 2))
        blocks.append(f"{paragraph(caption, columns)}\n{compared}")
    return "\n\n".join(blocks)


def _notes(assumed: Assumptions, plans: Sequence[tuple[float, PlanSamplesResponse]]) -> Iterator[str]:
    from cli.quantities import share

    row = plans[0][1]
    more = row.median_sample_count / max(1, row.continuous_median_sample_count) - 1
    yield (
        f"That failures are only found at {assumed.check_count} checks costs {100 * max(0.0, more):.1f} % more samples "
        "for the median than knowing every time exactly."
    )
    if any(row.median_sample_count * assumed.failure_share < _FEW_FAILURES for _, row in plans):
        yield (
            f"Where fewer than {_FEW_FAILURES} samples would fail the numbers are somewhat too small: intervals are "
            "then wider than the information says."
        )
    if assumed.cured_share is not None:
        none = ", and where more than half never do there is no median" if assumed.cured_share > 0.5 else ""
        yield (
            f"That report finds that {share(assumed.cured_share)} never fail. The median and E[T] here are of times at "
            f"which every sample fails in the end{none}: go by the failure share alone."
        )
    if assumed.accuracy < 1:
        yield (
            f"{100 * (1 - assumed.accuracy):.1f} % of samples are misclassified before the attack and never at risk: "
            "attack the samples at risk divided by the accuracy."
        )
    else:
        yield (
            "Samples that the model misclassifies before the attack are never at risk: attack these numbers divided by "
            "its accuracy, which --accuracy does."
        )


def plan_json(
    assumed: Assumptions,
    plans: Sequence[tuple[float, PlanSamplesResponse]],
    at: float,
    time_ratio: float | None,
    power: float,
    allocation: float,
) -> str:
    """The plan as JSON; what does not exist is null."""
    content: dict[str, Any] = {
        "assumptions": asdict(assumed) | {"confidence_level": at},
        "precisions": [
            {
                "interval_factor": one,
                "median_sample_count": row.median_sample_count,
                "expected_sample_count": (row.expected_sample_count if row.HasField("expected_sample_count") else None),
                "failure_share_sample_count": row.failure_share_sample_count,
                "continuous_median_sample_count": row.continuous_median_sample_count,
                "median_samples_to_attack": _to_attack(row.median_sample_count, assumed),
                "median_attack_seconds": (
                    None if assumed.seconds_per_sample is None else row.median_sample_count * assumed.seconds_per_sample
                ),
            }
            for one, row in plans
        ],
        "comparison": None,
    }
    if time_ratio is not None:
        found = plans[0][1].comparison
        shares = (
            (found.first_failure_share_sample_count, found.second_failure_share_sample_count)
            if found.HasField("first_failure_share_sample_count")
            else (None, None)
        )
        content["comparison"] = {
            "time_ratio": time_ratio,
            "power": power,
            "allocation_ratio": allocation,
            "first_sample_count": found.first_sample_count,
            "second_sample_count": found.second_sample_count,
            "first_failure_share_sample_count": shares[0],
            "second_failure_share_sample_count": shares[1],
            "second_failure_share": found.second_failure_share,
        }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _to_attack(at_risk: int, assumed: Assumptions) -> int:
    return math.ceil(at_risk / assumed.accuracy)
