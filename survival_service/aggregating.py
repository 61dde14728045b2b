"""The report of experiments of which only totals are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from survival_service.distributions import Distribution
from survival_service.errors import InvalidRequest
from survival_service.estimates import NO_CURVE, NO_ESTIMATE, Histogram
from survival_service.experiments import ExperimentGroup, Experiments, groups, score, share, training_cost
from survival_service.fitting import Fit, Status, fit, ranked
from survival_service.limitations import left_out
from survival_service.metrics import concordance
from survival_service.observations import Clock
from survival_service.reports import ClockReport, CostSummary, Report, ReportOptions
from survival_service.scoring import Conclusion, Score
from survival_service.wording import interval, level_in_words, number, percent

# Of one rate, what a failure takes and what was spent for each differ by less, unless 9 999 of 10 000 fail.
_UNLIKE = 10.0
_MOST_NAMED = 3


def report_experiments(experiments: Experiments, options: ReportOptions) -> Report:
    """Report on aggregated rows: rates of failure and costs in seconds, the only clock that they have.

    The exponential is always among the fits: it is the one whose only parameter is a rate.
    """
    if not experiments.sample_count.size:
        raise InvalidRequest("experiment_batch", "no experiment was sent; send at least one")
    level, prices = options.confidence_level, options.price_ratio(Clock.SECONDS)
    every = np.ones(experiments.sample_count.size, dtype=bool)
    scored = score(experiments, level, every, price_ratio=prices)
    apart, fits = groups(experiments, level, price_ratio=prices), _fits(experiments, options)
    samples, failed, misclassified = (
        round(float(getattr(experiments, name).sum()))
        for name in ("sample_count", "failure_count", "misclassified_count")
    )
    attack = float(experiments.attack_seconds.sum())
    clock = ClockReport(
        clock=Clock.SECONDS,
        fits=fits,
        kaplan_meier=NO_CURVE,
        histogram=Histogram(),
        cost_per_failure=scored.cost_per_failure,
        training_cost_per_sample=training_cost(experiments, every),
        attack_cost=attack,
        cost_normalized_failure_rate=scored.cost_normalized_failure_rate,
        confidence_above_one=scored.confidence_above_one,
        conclusion=scored.conclusion,
        paper_rate=None,
        benign_rate=None,
    )
    risk = experiments.at_risk
    return Report(
        attack_job_ids=(),
        sample_count=samples,
        failed_count=failed,
        survived_count=max(0, samples - failed - misclassified),
        misclassified_count=misclassified,
        clean_accuracy=share(risk, experiments.sample_count, level) if misclassified else NO_ESTIMATE,
        adversarial_accuracy=share(risk - experiments.failure_count, experiments.sample_count, level),
        failure_share=share(experiments.failure_count, risk, level),
        clock_reports=(clock,),
        summary=_summary(experiments, scored, level) + _broken_alone(apart, scored.conclusion),
        conclusion=scored.conclusion,
        limitations=_limitations(experiments, clock),
        costs=_costs(attack, scored, options),
        jobs=(),
        partial=False,
        confidence_level=level,
        experiment_groups=apart,
    )


def _fits(experiments: Experiments, options: ReportOptions) -> tuple[Fit, ...]:
    observations = experiments.observations()
    chosen = dict.fromkeys((Distribution.EXPONENTIAL, *options.distributions))
    return ranked(
        tuple(
            _advised(
                _ordering(fit(observations, one, clock=Clock.SECONDS, level=options.confidence_level), experiments)
            )
            for one in chosen
        )
    )


def _advised(fitted: Fit) -> Fit:
    """The fit, with what can be done where totals have no curve: their attacks were made."""
    if fitted.status is not Status.SINGLE_CHECK:
        return fitted
    message = (
        "totals tell how many failed and not when, which gives a failure share but no curve; submit one row a sample"
    )
    return replace(fitted, status_message=message)


def _ordering(fitted: Fit, experiments: Experiments) -> Fit:
    """The fit with the concordance that can be had: how well it orders experiments by their time a sample.

    Failures of one experiment have no order among them.
    """
    effects = {coefficient.covariate: coefficient.estimate for coefficient in fitted.coefficients[1:]}
    if not fitted.has_numbers or not effects:
        return replace(fitted, concordance=None)
    predicted = experiments.covariates @ np.array([effects.get(name, 0.0) for name in experiments.names])
    time = experiments.seconds_per_sample
    return replace(fitted, concordance=concordance(time, np.ones(time.size, dtype=bool), predicted))


def _summary(experiments: Experiments, scored: Score, level: float) -> str:
    count, confidence = experiments.sample_count.size, level_in_words(level)
    what = f"{count} experiment{'s' if count > 1 else ''}"
    risk, failed = float(experiments.at_risk.sum()), float(experiments.failure_count.sum())
    if risk <= 0:
        return f"Undecided: no sample of {what} was classified correctly before its attack."
    if failed <= 0:
        return f"Undecided: no sample failed among {risk:.0f} at risk in {what}."
    rate, cost = scored.cost_normalized_failure_rate, scored.cost_per_failure
    share_failed = percent(min(1.0, failed / risk))
    known = f"a failure cost {number(cost.value or 0.0)} seconds, {share_failed} of those at risk failed"
    if rate.value is None:
        return (
            f"Undecided: over {what} {known}; what training cost is not known: give training_seconds_per_sample, or "
            "--training-seconds and --training-samples."
        )
    word = {Conclusion.BROKEN: "Broken", Conclusion.NOT_REJECTED: "Not rejected"}.get(scored.conclusion, "Undecided")
    spread = f" ({confidence} interval {interval(rate)})" if interval(rate) else ""
    proof = "; that is no proof of robustness" if scored.conclusion is Conclusion.NOT_REJECTED else ""
    return (
        f"{word}: over {what} together, in seconds, training cost {number(rate.value)} times as much per training "
        f"sample{spread} as a failure cost the attacker{proof}; {known}."
    )


def _broken_alone(apart: Sequence[ExperimentGroup], together: Conclusion) -> str:
    """The groups that are broken where all together are not: an attacker need not try what costs more."""
    if together is Conclusion.BROKEN:
        return ""
    broken = [one.group for one in apart if one.conclusion is Conclusion.BROKEN]
    if not broken:
        return ""
    names = ", ".join(broken) if len(broken) <= _MOST_NAMED else f"{len(broken)} of {len(apart)} groups"
    return f" But {names} alone: broken, and an attacker may choose."


def _limitations(experiments: Experiments, clock: ClockReport) -> tuple[str, ...]:
    n = experiments.sample_count.size
    found = [
        "The rows are totals of experiments: who failed when within an experiment is not known. They carry a rate of "
        "failure and a cost; a median, E[T] or curve assumes that the rate is constant, which such rows cannot test.",
        "Queries were not counted, so latency cannot be told from robustness.",
    ]
    if clock.fits and clock.fits[0].coefficients[1:]:
        found.append(
            "The median, means and curve of the fits are those of the average setting; the cost of a failure and C are "
            "of all experiments together, which those with the greatest costs weigh upon most."
        )
    best, cost = next((fit for fit in clock.fits if fit.has_numbers), None), clock.cost_per_failure.value
    if best is not None and best.expected.value and cost and not 1 / _UNLIKE < best.expected.value / cost < _UNLIKE:
        found.append(
            f"By the fits a failure takes {number(best.expected.value)} seconds, and {number(cost)} seconds were spent "
            "for each: the experiments fail at rates too unlike for one. Quote the cost of a failure, or report on "
            "experiments that are alike."
        )
    if unfailed := int((experiments.failure_count <= 0).sum()):
        found.append(f"In {unfailed} of {n} experiments nothing failed that was right before.")
    if experiments.misclassified_count.any():
        found.append(
            f"{percent(float(experiments.misclassified_count.sum() / experiments.sample_count.sum()))} of the samples "
            "were wrong before the attack; the time spent on them cannot be told apart and is in the attack's cost."
        )
    else:
        found.append(
            "Which samples were wrong before the attack is not known, so their errors count as failures if the file "
            "counted them."
        )
    if n > 1:
        found.append(
            "Intervals take experiments as independent; experiments that share a model or a device are not, and their "
            "intervals are too narrow."
        )
    found += [f"L{text[1:]}." for fit in clock.fits[:1] for text in left_out(fit.dropped_covariates)]
    return tuple(found)


def _costs(attack_seconds: float, scored: Score, options: ReportOptions) -> CostSummary:
    attacker, per_failure = options.attacker_price_usd_per_hour, scored.cost_per_failure.value
    return CostSummary(
        training_seconds=0.0,
        attack_seconds=attack_seconds,
        clean_seconds=0.0,
        defender_price_usd_per_hour=options.defender_price_usd_per_hour,
        attacker_price_usd_per_hour=attacker,
        training_cost_usd=None,
        attack_cost_usd=None if attacker is None else attack_seconds * attacker / 3600,
        cost_per_failure_usd=None if attacker is None or per_failure is None else per_failure * attacker / 3600,
        training_sample_count=0,
    )
