"""Making robustness reports: what was learnt on each clock, what it cost, and what limits the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from survival_service.accuracies import adversarial_accuracy, clean_share
from survival_service.contrasts import effect_report
from survival_service.criteria import averaged
from survival_service.cure import cure_fits, needs_cured_share
from survival_service.diagnostics import diagnose
from survival_service.distances import distances, no_distance
from survival_service.distributions import Distribution
from survival_service.errors import InvalidRequest
from survival_service.estimates import (
    NO_ESTIMATE,
    Estimate,
    effective_trials,
    share_upper_bound,
    wilson,
)
from survival_service.fitting import Fit, Prepared, Status, described, fit, prepared, ranked
from survival_service.hurdle import hurdle_restricted_mean
from survival_service.jobs import JobFacts
from survival_service.limitations import limitations
from survival_service.nonparametric import histogram, kaplan_meier
from survival_service.observations import Clock, IntArray, Observations, OutcomeColumns, Verdict
from survival_service.outcome_table import OutcomeTable
from survival_service.pooling import jobs_of_rows, pooled
from survival_service.ranking import fit_concordances
from survival_service.reports import (
    ClockReport,
    CostSummary,
    ObservationFits,
    Report,
    ReportedJob,
    ReportOptions,
    ReportProgress,
)
from survival_service.scoring import Score, Spending, benign_rate, images, paper_rate, score, spending
from survival_service.sequential import Monitor
from survival_service.stopping import decided
from survival_service.wording import summary


def make_report(
    jobs: Sequence[tuple[JobFacts, OutcomeTable]], options: ReportOptions, monitor: Monitor | None = None
) -> Report:
    """Make the report of one or more jobs that have ended, or were read as far as they got.

    `monitor` has the looks taken at the one job while it ran, if it was to stop at a precision.
    """
    if not jobs:
        raise InvalidRequest("attack_job_ids", "name at least one attack job to report on")
    level = options.confidence_level
    outcomes = [(facts, table.columns()) for facts, table in jobs]
    failed = sum(table.failed_count for _, table in jobs)
    survived = sum(table.survived_count for _, table in jobs)
    misclassified = sum(table.misclassified_count for _, table in jobs)
    total, at_risk = failed + survived + misclassified, failed + survived
    stopping = None if monitor is None else decided(monitor, *jobs[0], options.clock, ended=True)

    require_clock([facts for facts, _ in jobs], options)
    norm = "" if no_distance([facts for facts, _ in jobs]) else jobs[0][0].norm
    clocks = dict.fromkeys((options.clock, Clock.QUERIES, Clock.SECONDS, *([Clock.DISTANCE] if norm else [])))
    spent = {clock: spending(outcomes, clock) for clock in (Clock.SECONDS, Clock.QUERIES)}
    scores = {clock: score(of, level, price_ratio=options.price_ratio(clock)) for clock, of in spent.items()}
    reports = {
        clock: _survival_report(prepared(distances(jobs)), clock, options)
        if clock is Clock.DISTANCE
        else _clock_report(jobs, outcomes, clock, spent[clock], scores[clock], options)
        for clock in clocks
    }
    requested, concluding = reports[options.clock], reports[options.clock.of_costs]
    verdict, image = np.concatenate([columns.verdict for _, columns in outcomes]), images(outcomes)
    exposed, fell = verdict != Verdict.MISCLASSIFIED, verdict == Verdict.FAILED
    failure_share = _share(fell[exposed], image[exposed], level, bound_without=True)
    # A clean sample that a defence rejects is at risk, but was not answered: outcomes do not tell them apart.
    answered, clean = not any(facts.clean_rejection_share for facts, _ in jobs), clean_share(jobs)
    return Report(
        attack_job_ids=tuple(facts.attack_job_id for facts, _ in jobs),
        sample_count=total,
        failed_count=failed,
        survived_count=survived,
        misclassified_count=misclassified,
        clean_accuracy=clean.estimate(level) if clean and answered else NO_ESTIMATE,
        adversarial_accuracy=adversarial_accuracy(jobs, level),
        failure_share=failure_share,
        clock_reports=tuple(reports.values()),
        summary=summary(
            scores[concluding.clock],
            requested.fits,
            options.clock,
            never_fail=needs_cured_share(requested.fits, requested.cure_fits),
            sample_count=total,
            at_risk=at_risk,
            failed=failed,
            failure_bound=failure_share.upper,
            canceled=any(facts.canceled for facts, _ in jobs),
            priced=options.price_ratio(concluding.clock) != 1.0,
            level=level,
        ),
        conclusion=scores[concluding.clock].conclusion,
        limitations=limitations(
            jobs,
            [(report.clock, report.fits) for report in reports.values()],
            surviving_share=min(concluding.kaplan_meier.survival, default=0.0),
            shared_images=np.unique(image).size < total,
            conclusions=[(report.clock, report.conclusion) for report in reports.values()],
            stopped_as_planned=stopping is not None and stopping.met,
        ),
        costs=_costs(outcomes, spent[Clock.SECONDS], scores[Clock.SECONDS], options),
        jobs=tuple(_reported(facts, table) for facts, table in jobs),
        partial=any(
            facts.canceled or table.outcome_count < facts.sample_count or table.in_flight_count for facts, table in jobs
        ),
        confidence_level=level,
        effect_report=effect_report(jobs, {clock: report.fits for clock, report in reports.items()}, level),
        distance_norm=norm,
        stopping=stopping,
    )


def require_clock(jobs: Sequence[JobFacts], options: ReportOptions) -> None:
    """Raise `InvalidRequest` if these jobs have nothing on the clock of the conclusion."""
    if options.clock is Clock.DISTANCE and (why := no_distance(jobs)):
        raise InvalidRequest("options.clock", f"there is no report on the clock of distance: {why}")


def make_progress(
    jobs: Sequence[tuple[JobFacts, OutcomeTable]],
    options: ReportOptions,
    previous: ReportProgress | None = None,
    monitor: Monitor | None = None,
) -> ReportProgress:
    """Count what has arrived and fit it on the requested clock, samples in flight censored at their last check.

    Distances are of whole jobs, so their provisional fits are on queries.

    `previous` lends its fits as starting points. `monitor` has all looks at the one job so far.
    """
    starts = {fit.distribution: fit for fit in previous.provisional_fits} if previous else {}
    clock = options.clock.of_costs
    stopping = None if monitor is None else decided(monitor, *jobs[0], clock)
    return ReportProgress(
        outcome_count=sum(table.outcome_count for _, table in jobs),
        failed_count=sum(table.failed_count for _, table in jobs),
        survived_count=sum(table.survived_count for _, table in jobs),
        misclassified_count=sum(table.misclassified_count for _, table in jobs),
        in_flight_count=sum(table.in_flight_count for _, table in jobs),
        provisional_fits=_fits(pooled(jobs, clock), options, clock, starts) if jobs else (),
        stopping=stopping,
    )


def fit_observations(
    observations: Observations, options: ReportOptions, *, clock: Clock | None = None, misclassified_count: int = 0
) -> ObservationFits:
    """Fit observations of any origin, in whatever unit; `clock` only labels the fits."""
    rows = prepared(observations)
    fits = _fits(rows, options, clock)
    return ObservationFits(
        fits=fits,
        observation_count=round(observations.observation_count),
        failure_count=round(observations.failure_count),
        misclassified_count=misclassified_count,
        kaplan_meier=kaplan_meier(observations, options.confidence_level),
        diagnostics=diagnose(fits, rows),
    )


def _fits(
    observations: Observations | Prepared,
    options: ReportOptions,
    clock: Clock | None,
    starts: Mapping[Distribution, Fit] | None = None,
) -> tuple[Fit, ...]:
    level, known = options.confidence_level, starts or {}
    rows = observations if isinstance(observations, Prepared) else prepared(observations)
    return ranked(
        tuple(
            described(fit(rows, one, clock=clock, level=level, start=known.get(one)), rows, level=level)
            for one in options.distributions
        )
    )


def _clock_report(
    jobs: Sequence[tuple[JobFacts, OutcomeTable]],
    outcomes: Sequence[tuple[JobFacts, OutcomeColumns]],
    clock: Clock,
    spent: Spending,
    scored: Score,
    options: ReportOptions,
) -> ClockReport:
    level, prices = options.confidence_level, options.price_ratio(clock)
    rows = prepared(pooled(jobs, clock))
    survival = _survival_report(rows, clock, options, jobs_of_rows(jobs))
    fits = survival.fits
    # The limit of a fit where a group had no failure has the times of the other samples only, and not those of all.
    best = next((one for one in fits if one.status is Status.OK), None)
    clean = clean_share(jobs)
    return replace(
        survival,
        cost_per_failure=scored.cost_per_failure,
        training_cost_per_sample=spent.training_cost_per_sample,
        attack_cost=spent.attack_cost,
        cost_normalized_failure_rate=scored.cost_normalized_failure_rate,
        confidence_above_one=scored.confidence_above_one,
        conclusion=scored.conclusion,
        paper_rate=paper_rate(best.expected, spent, price_ratio=prices) if best else None,
        benign_rate=benign_rate(outcomes, level, price_ratio=prices) if clock is Clock.SECONDS else None,
        averaged_median=averaged(fits, "median", level),
        averaged_restricted_mean=averaged(fits, "restricted_mean", level),
        cure_fits=cure_fits(rows, fits, level=level),
        concordances=fit_concordances(fits, rows, level=level),
        hurdle_restricted_mean=hurdle_restricted_mean(
            best.restricted_mean,
            clean.value,
            clean.trials,
            best.restriction_time,
            level,
            degrees_of_freedom=best.degrees_of_freedom,
        )
        if best and clean
        else None,
    )


def _survival_report(
    rows: Prepared, clock: Clock, options: ReportOptions, configuration: IntArray | None = None
) -> ClockReport:
    """What these times say, whatever they cost; `configuration` numbers the attack job of each row."""
    fits = _fits(rows, options, clock)
    return ClockReport(
        clock=clock,
        fits=fits,
        kaplan_meier=kaplan_meier(rows.observations, options.confidence_level),
        histogram=histogram(rows.observations),
        diagnostics=diagnose(fits, rows, configuration),
    )


def _share(events: NDArray[np.bool_], image: IntArray, level: float, *, bound_without: bool = False) -> Estimate:
    """A share of outcomes with Wilson's interval, for as many outcomes as are independent.

    With `bound_without` no event gives the exact one-sided bound, which is what can be promised then.
    """
    if not events.size:
        return NO_ESTIMATE
    count, trials = int(events.sum()), effective_trials(events, image)
    if bound_without and not count:
        return Estimate(0.0, 0.0, share_upper_bound(0, trials, level))
    return wilson(count * trials / events.size, trials, level)


def _costs(
    outcomes: Sequence[tuple[JobFacts, OutcomeColumns]], spent: Spending, scored: Score, options: ReportOptions
) -> CostSummary:
    models = {facts.weights_digest or facts.attack_job_id: facts for facts, _ in outcomes}.values()
    training = sum(facts.training_seconds for facts in models)
    trained_on: dict[str, int] = {}
    for facts in models:
        trained_on[facts.dataset] = max(trained_on.get(facts.dataset, 0), facts.training_sample_count)
    defender, attacker = options.defender_price_usd_per_hour, options.attacker_price_usd_per_hour
    per_failure = scored.cost_per_failure.value
    return CostSummary(
        training_seconds=training,
        attack_seconds=spent.attack_cost,
        clean_seconds=float(sum(columns.clean_seconds.sum() for _, columns in outcomes)),
        defender_price_usd_per_hour=defender,
        attacker_price_usd_per_hour=attacker,
        training_cost_usd=_price(training, defender) if all(facts.training_seconds > 0 for facts in models) else None,
        attack_cost_usd=_price(spent.attack_cost, attacker),
        cost_per_failure_usd=None if per_failure is None else _price(per_failure, attacker),
        training_sample_count=sum(trained_on.values()),
    )


def _price(seconds: float, usd_per_hour: float | None) -> float | None:
    return None if usd_per_hour is None else seconds * usd_per_hour / 3600


def _reported(facts: JobFacts, table: OutcomeTable) -> ReportedJob:
    return ReportedJob(
        attack_job_id=facts.attack_job_id,
        model=facts.model,
        dataset=facts.dataset,
        attack=facts.attack,
        engine=facts.engine,
        norm=facts.norm,
        attack_parameters=facts.attack_parameters,
        weights_digest=facts.weights_digest,
        clean_accuracy=facts.clean_accuracy,
        attack_device_name=facts.attack_device_name,
        training_device_name=facts.training_device_name,
        failed_count=table.failed_count,
        survived_count=table.survived_count,
        misclassified_count=table.misclassified_count,
        defence=facts.defence,
        defence_parameters=facts.defence_parameters,
        defended_accuracy=facts.defended_accuracy,
        clean_rejection_share=facts.clean_rejection_share,
        randomized=facts.randomized,
        rejected_count=table.rejected_count,
    )
