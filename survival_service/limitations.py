"""What limits the numbers of one report, each a sentence computed from that run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from survival_service.accuracies import clean_pass_told
from survival_service.advice import advice_on
from survival_service.fitting import USABLE, Fit, Status
from survival_service.jobs import JobFacts
from survival_service.observations import Clock
from survival_service.outcome_table import OutcomeTable
from survival_service.scoring import Conclusion
from survival_service.wording import (
    CLOCKS,
    CONCLUSIONS,
    DISTRIBUTIONS,
    SPENT_IN,
    how_to_tell_training_cost,
    percent,
)

# Fewer failures, and intervals from the curvature of the likelihood hold less than they promise.
FEW_FAILURES = 30
# A clean accuracy of at most this many times chance says that the model was hardly trained.
NEAR_CHANCE_FACTOR = 1.5
NOTABLE_SHARE = 0.05


def limitations(
    jobs: Sequence[tuple[JobFacts, OutcomeTable]],
    fits: Sequence[tuple[Clock, tuple[Fit, ...]]],
    *,
    surviving_share: float = 0.0,
    shared_images: bool = False,
    conclusions: Sequence[tuple[Clock, Conclusion | None]] = (),
    stopped_as_planned: bool = False,
) -> tuple[str, ...]:
    """Everything a reader should know before quoting a number, the weightiest first, without repetition.

    `surviving_share` is where the curve of Kaplan and Meier ends; `shared_images` says that jobs attacked the same,
    `stopped_as_planned` that the one job was to stop at a precision, and did.
    """
    found = [
        *_of_conclusions([(clock, conclusion) for clock, conclusion in conclusions if conclusion is not None]),
        *_of_training(jobs),
        *_of_jobs(jobs, stopped_as_planned),
        *_of_devices(jobs),
        *_of_defences(jobs),
        *_of_counts(jobs, surviving_share, fitted=any(fit.has_numbers for _, those in fits for fit in those)),
        *_of_fits(fits),
        *_of_pooling(jobs, fits, shared_images),
        *_of_models(jobs),
    ]
    return tuple(dict.fromkeys(f"{text[0].upper()}{text[1:].rstrip('.')}." for text in found if text))


def _of_conclusions(conclusions: Sequence[tuple[Clock, Conclusion]]) -> Iterator[str]:
    if len({conclusion for _, conclusion in conclusions}) > 1:
        each = ", ".join(f"{CONCLUSIONS[conclusion]} in {SPENT_IN[clock]}" for clock, conclusion in conclusions)
        yield f"the conclusion depends on what costs are counted in: {each}"


def _of_training(jobs: Sequence[tuple[JobFacts, OutcomeTable]]) -> Iterator[str]:
    """What is not known of models that were trained elsewhere."""
    for facts in {facts.weights_digest: facts for facts, _ in jobs if facts.weights_digest}.values():
        per_sample = {
            Clock.QUERIES: facts.training_passes_per_sample,
            Clock.SECONDS: facts.training_seconds_per_sample,
        }
        for clock, cost in per_sample.items():
            if cost <= 0:
                yield (
                    f"what training the {facts.model} of job {facts.attack_job_id} cost in {SPENT_IN[clock]} is not "
                    f"known, so there is no rate in {SPENT_IN[clock]}; {how_to_tell_training_cost(clock)}"
                )
        if facts.training_seconds > 0 and not facts.training_device_name:
            yield (
                f"the training time of the {facts.model} of job {facts.attack_job_id} was given, not measured, on a "
                "device that nobody named, so the rate in seconds may compare unlike devices"
            )


def _of_jobs(jobs: Sequence[tuple[JobFacts, OutcomeTable]], stopped_as_planned: bool) -> Iterator[str]:
    for facts, table in jobs:
        name = f"job {facts.attack_job_id}"
        missing = facts.sample_count - table.outcome_count
        if facts.canceled and stopped_as_planned:
            yield (
                f"{name} stopped as planned after {table.outcome_count} of {facts.sample_count} samples; those under "
                "attack then count as surviving up to their last check, which the fits and curves take into account. "
                "The share of failures does not and is too low; there is no accuracy under attack, which only whole "
                "attacks tell. Only the interval that it was stopped for is corrected for the looks at it; all others "
                "are for a number of samples fixed beforehand"
            )
        elif facts.canceled:
            yield (
                f"{name} was canceled after {table.outcome_count} of {facts.sample_count} samples; those under attack "
                "count as surviving up to their last check, so at least the reported share fails. There is no "
                "accuracy under attack, which only whole attacks tell. Its intervals are for a number of samples fixed "
                "beforehand: if it was canceled because one had become narrow, they promise more than they hold"
            )
        elif missing > 0:
            yield (
                f"{name} reported {table.outcome_count} of {facts.sample_count} samples, so the report is partial, "
                "without an accuracy under attack"
            )
        if not clean_pass_told(facts, table):
            yield (
                f"{name} ended before all samples that are misclassified were known, so there is no accuracy before "
                "the attack; run it again, and let it begin to attack"
            )
        if facts.attempt_count > 1:
            yield (
                f"{name} took {facts.attempt_count} attempts because a worker stopped; what the earlier ones spent on "
                "unfinished samples is on no clock"
            )
        if facts.class_count and facts.clean_accuracy <= NEAR_CHANCE_FACTOR / facts.class_count:
            yield (
                f"the {facts.model} of {name} is hardly better than chance ({percent(facts.clean_accuracy)} correct "
                f"with {facts.class_count} classes), so its failures say little about robustness"
            )
        yield from facts.warnings


def _of_devices(jobs: Sequence[tuple[JobFacts, OutcomeTable]]) -> Iterator[str]:
    for facts, _ in jobs:
        if facts.training_device_name != facts.attack_device_name and facts.training_device_name:
            yield (
                f"training was measured on {facts.training_device_name} and the attack on "
                f"{facts.attack_device_name or 'an unknown device'}, so the rate in seconds compares unlike devices"
            )
    names = dict.fromkeys(facts.attack_device_name or "an unknown device" for facts, _ in jobs)
    if len(names) > 1:
        yield (
            f"the jobs were attacked on unlike devices ({', '.join(names)}), so every time and rate in seconds mixes "
            "the devices with the attacks"
        )


def _of_defences(jobs: Sequence[tuple[JobFacts, OutcomeTable]]) -> Iterator[str]:
    for facts, table in jobs:
        name = f"{facts.defence} of job {facts.attack_job_id}"
        if facts.randomized:
            yield (
                f"the defence {name} answers by chance: samples were judged by the mean of "
                f"{facts.defence_parameters.get('repeats', 1):g} answers, all of one seed, and the intervals leave out "
                "what other draws would give"
            )
        if facts.clean_rejection_share:
            yield (
                f"the defence {name} rejects {percent(facts.clean_rejection_share)} of clean test samples and leaves "
                f"{percent(facts.defended_accuracy)} answered correctly, of {percent(facts.clean_accuracy)} without it"
            )
        if table.rejected_count:
            yield (
                f"{table.rejected_count} of {table.survived_count} samples that survived in job {facts.attack_job_id} "
                "were rejected by the defence at their last check: nobody was fooled, and nobody was answered"
            )


def _of_counts(jobs: Sequence[tuple[JobFacts, OutcomeTable]], surviving_share: float, *, fitted: bool) -> Iterator[str]:
    failed = sum(table.failed_count for _, table in jobs)
    at_risk = failed + sum(table.survived_count for _, table in jobs)
    misclassified = sum(table.misclassified_count for _, table in jobs)
    if misclassified:
        yield (
            f"{misclassified} of {at_risk + misclassified} samples were misclassified before the attack"
            f"{'; every time to failure is that of the others' if at_risk else ''}"
        )
    if not failed:
        return
    if failed < FEW_FAILURES:
        yield (
            f"only {failed} {'failure was' if failed == 1 else 'failures were'} seen among {at_risk} samples at risk; "
            "intervals from so few are approximate"
        )
    censored = 1 - failed / at_risk
    if censored > 0:
        outlived = "outlived the attack's budget"
        if any(facts.canceled for facts, _ in jobs):
            outlived = "had not failed when their attack ended or was canceled"
        beyond = ""
        if surviving_share > 0.5:
            beyond = f"; half of them were never seen to fail{', so every median is that of a fit' if fitted else ''}"
        yield f"{percent(censored)} of the samples at risk {outlived}{beyond}"
    if fitted and censored > NOTABLE_SHARE:
        yield (
            "the fits assume that every sample fails in the end; if a share never does (see 'How many never fail?'), "
            "their median and their expected time grow with the attack's budget, so quote the share of failures within "
            "it, the restricted mean together with the time that it is up to, and the share that never fails"
        )


def _of_fits(fits: Sequence[tuple[Clock, tuple[Fit, ...]]]) -> Iterator[str]:
    for clock, those in fits:
        far = clock is Clock.DISTANCE
        what, furthest = ("distance", "largest distance") if far else (f"time in {CLOCKS[clock]}", "longest time")
        best = next((fit for fit in those if fit.has_numbers), None)
        if best is not None:
            name = DISTRIBUTIONS[best.distribution]
            if best.expected.value is not None and math.isinf(best.expected.value):
                yield f"the best fit on {CLOCKS[clock]} ({name}) has no finite expected {what.partition(' ')[0]}"
            elif best.extrapolated_share > NOTABLE_SHARE:
                yield (
                    f"{percent(best.extrapolated_share)} of the expected {what} ({name}) lies beyond the "
                    f"{furthest} observed"
                )
            yield from left_out(best.dropped_covariates)
    doubtful: dict[str, list[str]] = {}
    refused: dict[str, list[str]] = {}
    for clock, those in fits:
        for fit in those:
            name = f"{DISTRIBUTIONS[fit.distribution]} in {CLOCKS[clock]}"
            if fit.has_numbers and fit.status_message != USABLE:
                doubtful.setdefault(fit.status_message, []).append(name)
            elif not fit.has_numbers and fit.status not in (Status.NO_FAILURE, Status.NO_SAMPLE):
                refused.setdefault(fit.status_message, []).append(name)
    for message, names in doubtful.items():
        yield f"{', '.join(names)}: {message}"
    fit_count = sum(len(those) for _, those in fits)
    for message, names in refused.items():
        which = "no fit" if len(names) == fit_count else f"no fit ({', '.join(names)})"
        yield f"{which}: {message}"


def left_out(dropped: Sequence[str]) -> Iterator[str]:
    """One sentence a reason for the covariates left out of a fit, of which `dropped` has a sentence each."""
    of_reason: dict[tuple[str, str], list[str]] = {}
    setting = advice_on(Clock.QUERIES).setting
    for sentence in dropped:
        # Names may hold " is ", so each reason is found by its whole wording.
        verbs = (" cannot be told apart from ", " is the same in every ")
        verb = next((one for one in verbs if one in sentence), "")
        name, _, reason = sentence.partition(verb) if verb else (sentence, "", "")
        others = " and ".join(map(setting, reason.split(" and "))) if "apart" in verb else reason
        of_reason.setdefault((verb, others), []).append(setting(name))
    for (verb, reason), names in of_reason.items():
        several = len(names) > 1
        listed = f"{', '.join(names[:-1])} and {names[-1]}" if several else names[0]
        yield f"left out of the fits: {listed}{verb.replace(' is ', ' are ') if several else verb}{reason}"


def _of_pooling(
    jobs: Sequence[tuple[JobFacts, OutcomeTable]], fits: Sequence[tuple[Clock, tuple[Fit, ...]]], shared_images: bool
) -> Iterator[str]:
    if any(len(fit.coefficients) > 1 for _, those in fits for fit in those):
        yield (
            f"{len(jobs)} jobs are pooled: medians, means and curves of the fits are at their average setting, the "
            "Kaplan-Meier curve, the shares and the rate over all their samples"
        )
    if shared_images:
        yield (
            "some images were attacked in several jobs: the intervals of the shares, the rate and (unless said "
            "otherwise) the fits allow for that, the band of the Kaplan-Meier curve does not and is too narrow"
        )


def _of_models(jobs: Sequence[tuple[JobFacts, OutcomeTable]]) -> Iterator[str]:
    models = len({facts.weights_digest for facts, _ in jobs})
    if models == 1:
        yield "one trained model was attacked: the intervals cover its samples, not what training it again would give"
    else:
        yield (
            f"{models} trained models were attacked; effects of the model or its defence rest on these few, and the "
            "intervals of the fits leave out what training again would change"
        )
