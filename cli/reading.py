"""A report as both the terminal and the page read it: headline, key figures, costs, in words and formatted numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.quantities import (
    DISTANCE,
    MEANINGS,
    NOTHING,
    QUERIES,
    SECONDS,
    clock_word,
    conclusion_word,
    count,
    distribution_word,
    duration,
    exceedance,
    has_numbers,
    interval,
    money,
    number,
    on_clock,
    share,
    share_interval,
    value_on_clock,
    with_unit,
)

if TYPE_CHECKING:
    from afr.attack.v1.attack_service_pb2 import AttackJob, AttackSpec
    from afr.survival.v1.survival_service_pb2 import ClockReport, ExperimentGroup, Fit, Report, ReportedJob

_PARTIAL = "Partial: samples were in flight, cut off or missing when this report was made."
_PLANNED = "Stopped as planned: what was asked for was known precisely enough before all samples had been attacked."


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of key figures: what it is, and its value on each clock of the report.

    `names` has what it is called under each clock alone, where that differs from what all clocks together call it.
    """

    name: str
    values: tuple[str, ...]
    explanation: str
    names: tuple[str, ...] = ()


def incomplete(report: Report) -> str:
    """Why the report does not cover all samples of its jobs; empty if it does."""
    if not report.partial:
        return ""
    return _PLANNED if report.stopping.met else _PARTIAL


def headline(report: Report) -> str:
    """The conclusion in one or two words."""
    return conclusion_word(report.conclusion)


def meaning(report: Report) -> str:
    """What the conclusion means, in plain words, and whether another clock says otherwise."""
    if report.failed_count == 0:
        return "Nothing failed, so nothing can be said about what a failure costs."
    others = [
        f"on the {clock_word(clock.clock)} clock it is {conclusion_word(clock.conclusion)}"
        for clock in report.clock_reports
        if clock.conclusion and conclusion_word(clock.conclusion) != headline(report)
    ]
    return " ".join([MEANINGS[headline(report)], *(f"The clocks disagree: {other}." for other in others)])


def best_fit(clock: ClockReport) -> Fit | None:
    """The fit with numbers whose AIC is lowest: the services sort them so."""
    return next((fit for fit in clock.fits if has_numbers(fit)), None)


def subject(report: Report) -> str:
    """What was attacked with what, in a few words."""
    if report.experiment_groups:
        experiments = sum(group.experiment_count for group in report.experiment_groups)
        return f"{count(experiments)} experiment{'' if experiments == 1 else 's'}"
    if len(report.jobs) != 1:
        return f"{len(report.jobs)} attack jobs"
    job = report.jobs[0]
    behind = "" if job.defence in ("", "none") else f" behind {job.defence}"
    return f"{job.model}{behind} on {job.dataset} under {job.attack}"


def behind_defence(job: AttackSpec | ReportedJob) -> str:
    """` behind` a defence and its parameters; nothing if there is none."""
    if job.defence in ("", "none"):
        return ""
    parameters = ", ".join(f"{name} {value:g}" for name, value in sorted(job.defence_parameters.items()))
    return f" behind {job.defence} ({parameters})"


def job_setting(job: ReportedJob) -> str:
    """How the attack was made, in a few words."""
    parameters = [f"{name} {value:g}" for name, value in sorted(job.attack_parameters.items())]
    known = [text for text, value in ((f"{job.engine} engine", job.engine), (f"norm {job.norm}", job.norm)) if value]
    return ", ".join([*known, *parameters]) or "as submitted"


def describe_model(job: AttackJob) -> str:
    """The attacked model in a sentence: how it came about and how good it is."""
    record = job.model_record
    seconds = record.training_duration.ToTimedelta().total_seconds()
    epochs = f"{record.epoch_count} epoch{'' if record.epoch_count == 1 else 's'}"
    trained = f"{epochs} in {duration(seconds)} on {record.training_device_name}"
    how = f"taken from the store, trained before: {trained}" if record.from_store else f"trained {trained}"
    if brought := job.spec.weights or job.spec.checkpoint or job.spec.program:
        how = f"as it was trained elsewhere ({brought})"
    correct = f"{share(record.clean_accuracy)} of {count(record.test_sample_count)} test samples correct"
    if job.spec.defence not in ("", "none"):
        correct += f", {share(record.defended_accuracy)} behind {job.spec.defence}"
    return f"{job.spec.model} {how}; {correct}"


def key_figures(report: Report) -> list[Figure]:
    """The figures that answer the question, each on every clock; those that no clock has are left out."""
    clocks = list(report.clock_reports)
    fits = [best_fit(clock) for clock in clocks]
    pairs = [(clock.clock, fit) for clock, fit in zip(clocks, fits, strict=True)]

    def of_fit(name: str) -> tuple[str, ...]:
        return tuple(
            NOTHING if fit is None else with_unit(on_clock(getattr(fit, name), clock), clock) for clock, fit in pairs
        )

    def of_average(name: str) -> tuple[str, ...]:
        return tuple(with_unit(on_clock(getattr(clock, name), clock.clock), clock.clock) for clock in clocks)

    def worded(text: str, *, long: str = "time to failure", far: str = "distance at failure") -> dict[str, Any]:
        """A name with `{}` for what the clocks tell: of all together, and of each where they differ."""
        names = tuple(text.format(far if clock == DISTANCE else long) for clock, _ in pairs)
        apart = len(set(names)) > 1
        return {
            "name": text.format(f"{long} or {far}") if apart else next(iter(names), text.format(long)),
            "names": names if apart else (),
        }

    longest = tuple(
        NOTHING if fit is None else with_unit(value_on_clock(fit.restriction_time, clock), clock)
        for clock, fit in pairs
    )
    figures = [
        Figure(
            "cost-normalised failure rate C",
            tuple(interval(clock.cost_normalized_failure_rate) for clock in clocks),
            "What training cost per training sample, over what a failure costs the attacker. Above 1, one failure is "
            "cheaper than one training sample was; the whole training cost that times the training samples.",
        ),
        Figure(
            "confidence that C > 1",
            tuple(
                exceedance(clock.confidence_above_one) if clock.HasField("confidence_above_one") else NOTHING
                for clock in clocks
            ),
            "Conditional on what was trained: what training again would change is not in it.",
        ),
        Figure(
            "conclusion",
            tuple(conclusion_word(clock.conclusion) if clock.conclusion else NOTHING for clock in clocks),
            "Broken if the whole interval of C lies above 1, not rejected if below, undecided if it straddles 1.",
        ),
        Figure(
            **worded("median {}"),
            values=of_fit("median"),
            explanation="By then half of the samples at risk fail.",
        ),
        Figure(
            "median, averaged over the fits",
            of_average("averaged_median"),
            "With their Akaike weights, on the log scale; the interval contains how the fits differ.",
        ),
        Figure(
            **worded("{} observed", long="longest time", far="largest distance"),
            values=longest,
            explanation="What lies beyond is extrapolated.",
        ),
        Figure(
            **worded("mean up to that {}", long="time", far="distance"),
            values=of_fit("restricted_mean"),
            explanation="The restricted mean: what has not failed by then counts as failing then.",
        ),
        Figure(
            "mean, averaged over the fits",
            of_average("averaged_restricted_mean"),
            "The mean up to there, averaged like the median.",
        ),
        Figure(
            **worded("expected {} E[T]"),
            values=of_fit("expected"),
            explanation="The mean without that limit. Infinite if the distribution has no mean.",
        ),
        Figure(
            "extrapolated share of E[T]",
            tuple(NOTHING if fit is None else share(fit.extrapolated_share) for fit in fits),
            "The part of E[T] that lies beyond what was observed, where only the distribution speaks.",
        ),
        Figure(
            "cost of a failure",
            tuple(_cost(clock) for clock in clocks),
            "Everything spent on samples at risk, failed attempts included, over the number of failures; on the "
            "queries clock in passes: forward and backward evaluations.",
        ),
        Figure(
            "training cost per sample",
            tuple(
                _amount(clock.training_cost_per_sample, clock.clock) if clock.training_cost_per_sample else NOTHING
                for clock in clocks
            ),
            "All epochs of training, over the number of training samples.",
        ),
    ]  # fmt: skip
    ordering = tuple(_concordance(clock, fit) for clock, fit in zip(clocks, fits, strict=True))
    if any(value != NOTHING for value in ordering):
        explanation = "Harrell's C: of two, how often the one that the fit lets fail sooner does so. 0.5 is chance."
        figures.append(Figure("concordance of the best fit", ordering, explanation))
    if any(clock.paper_rate.HasField("value") for clock in clocks):
        figures.append(
            Figure(
                "C with E[T] as the cost",
                tuple(interval(clock.paper_rate) for clock in clocks),
                "The rate as arXiv 2401.13751 defines it, with the expected time of the best fit.",
            )
        )
    if any(clock.benign_rate.HasField("value") for clock in clocks):
        figures.append(
            Figure(
                "C of clean errors",
                tuple(interval(clock.benign_rate) for clock in clocks),
                "The same rate without an attacker: what waiting for a clean error costs.",
            )
        )
    return [figure for figure in figures if any(value != NOTHING for value in figure.values)]


def _concordance(clock: ClockReport, fit: Fit | None) -> str:
    """Harrell's C of a fit on its clock, with its interval."""
    known = [one.harrell for one in clock.concordances if fit is not None and one.distribution == fit.distribution]
    return interval(known[0]) if known and known[0].HasField("value") else NOTHING


def clock_headers(report: Report) -> list[str]:
    """What each clock's column is headed; a distance has no other unit than its norm."""
    norm = f" (norm {report.distance_norm})" if report.distance_norm else ""
    return [
        f"on the {clock_word(clock.clock)} clock{norm if clock.clock == DISTANCE else ''}"
        for clock in report.clock_reports
    ]


def shares(report: Report) -> list[tuple[str, str]]:
    """Accuracies and the share of failures with their intervals, as pairs of name and value."""
    return [
        ("accuracy before the attack", share_interval(report.clean_accuracy)),
        ("accuracy under attack", share_interval(report.adversarial_accuracy)),
        ("failed, of those at risk", share_interval(report.failure_share)),
    ]


FIT_COLUMNS = ("distribution", "AIC", "weight", "BIC", "log L", "scale σ", "median", "restricted mean", "E[T]")


def fits_title(clock: int) -> str:
    """What a table of fits on a clock is headed; its queries have no unit in the cells."""
    return f"fits on the {clock_word(clock)} clock{' (times in queries)' if clock == QUERIES else ''}"


def fit_row(fit: Fit) -> tuple[str, ...]:
    """A fit's cells under `FIT_COLUMNS`; without numbers, its distribution alone (see `Fit.status_message`)."""
    if not has_numbers(fit):
        return (distribution_word(fit.distribution), *[NOTHING] * (len(FIT_COLUMNS) - 1))
    return (
        distribution_word(fit.distribution),
        f"{fit.aic:.1f}",
        share(fit.akaike_weight) if fit.HasField("akaike_weight") else NOTHING,
        f"{fit.bic:.1f}",
        f"{fit.log_likelihood:.1f}".replace("-", "−"),
        number(fit.scale),
        on_clock(fit.median, fit.clock),
        on_clock(fit.restricted_mean, fit.clock),
        on_clock(fit.expected, fit.clock),
    )


GROUP_COLUMNS = (
    "group", "experiments", "at risk", "failed", "a failure costs", "C", "conclusion", "median C",
)  # fmt: skip
GROUPS = "The experiments by group: C of all of a group together, and the median of its experiments' own C"


def group_row(group: ExperimentGroup) -> tuple[str, ...]:
    """A group's cells under `GROUP_COLUMNS`."""
    return (
        group.group,
        count(group.experiment_count),
        count(group.sample_count - group.misclassified_count),
        count(group.failed_count),
        on_clock(group.cost_per_failure, SECONDS),
        interval(group.cost_normalized_failure_rate),
        conclusion_word(group.conclusion),
        number(group.median_rate) if group.HasField("median_rate") else NOTHING,
    )


def statuses(clock: ClockReport) -> list[str]:
    """Why fits have no numbers, each reason once, with the distributions that it holds for."""
    reasons: dict[str, list[str]] = {}
    for fit in clock.fits:
        if not has_numbers(fit):
            reason = fit.status_message or "no numbers"
            if fit.HasField("failure_probability"):
                by = with_unit(value_on_clock(fit.failure_probability_time, fit.clock), fit.clock)
                reason = f"{reason} ({share_interval(fit.failure_probability)} had failed by {by})"
            reasons.setdefault(reason, []).append(distribution_word(fit.distribution))
    return [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]


def common_statuses(report: Report) -> list[str]:
    """Why no clock has any numbers, if the reasons are the same on all of them; else empty."""
    reasons = [statuses(clock) for clock in report.clock_reports]
    none = not any(best_fit(clock) for clock in report.clock_reports)
    return reasons[0] if reasons and none and all(reason == reasons[0] for reason in reasons) else []


def cost_lines(report: Report) -> Iterator[tuple[str, str]]:
    """What was spent, in time and where prices are known in money, as pairs of name and value."""
    costs = report.costs

    def spent(seconds: float, usd: float | None) -> str:
        return duration(seconds) + (f", {money(usd)}" if usd is not None else "")

    def known(name: str) -> float | None:
        return getattr(costs, name) if costs.HasField(name) else None  # type: ignore[arg-type]

    samples = f" of {count(costs.training_sample_count)} samples" if costs.training_sample_count else ""
    training = costs.training_duration.ToTimedelta().total_seconds()
    attack = costs.attack_duration.ToTimedelta().total_seconds()
    clean = costs.clean_duration.ToTimedelta().total_seconds()
    if report.experiment_groups:
        # Their totals have no whole training, only what it cost a sample, and no clean pass.
        yield "attack on all samples", spent(attack, known("attack_cost_usd"))
    else:
        yield f"training{samples}", spent(training, known("training_cost_usd")) if training else "not known"
        yield "attack on samples at risk", spent(attack, known("attack_cost_usd"))
        yield "classifying the clean samples", duration(clean)
    per_failure = known("cost_per_failure_usd")
    if per_failure is not None:
        yield "one failure", money(per_failure)
    defender, attacker = known("defender_price_usd_per_hour"), known("attacker_price_usd_per_hour")
    if defender is not None and attacker is not None:
        same = defender == attacker
        yield (
            "price of a device-hour",
            (money(defender) if same else f"{money(defender)} for the defender, {money(attacker)} for the attacker"),
        )


def devices(report: Report) -> str:
    """What the seconds were measured on."""
    names = dict.fromkeys(
        name for job in report.jobs for name in (job.training_device_name, job.attack_device_name) if name
    )
    return ", ".join(names)


def accuracy_shares(report: Report) -> list[tuple[str, int, str]]:
    """The samples by what happened to them: name, count, and share of all."""
    total = max(1, report.sample_count)
    rejected = sum(job.rejected_count for job in report.jobs)
    return [
        (name, amount, share(amount / total))
        for name, amount in (
            ("failed", report.failed_count),
            (f"survived ({count(rejected)} rejected)" if rejected else "survived", report.survived_count),
            ("misclassified before the attack", report.misclassified_count),
        )
    ]


def _amount(value: float, clock: int) -> str:
    return duration(value) if clock == SECONDS else f"{number(value)} passes"


def _cost(clock: ClockReport) -> str:
    if clock.clock == SECONDS:
        return on_clock(clock.cost_per_failure, SECONDS)
    return interval(clock.cost_per_failure, "passes")
