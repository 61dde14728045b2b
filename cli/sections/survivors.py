"""How many never fail: the share that no budget of this attack breaks, and whether the attack was long enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli.quantities import (
    DISTANCE,
    NOTHING,
    clock_word,
    count,
    distribution_word,
    has_numbers,
    number,
    on_clock,
    share,
    share_interval,
    value_on_clock,
    with_unit,
)
from cli.sections.section import Section, SectionTable

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import ClockReport, CureFit, Report

    from cli.html.markup import Markup

_OK, _NO_CURED_SHARE = 1, 2  # CureFit.Status
_SHORT = 2  # CureFit.FollowUp
_NOT_RULED_OUT = 4.0  # AIC above the best, as of the follow-up
_COLUMNS = ("distribution", "never fail", "not yet failed", "median of the others", "AIC", "p")
_DEFINITION = (
    "The fits above let every sample fail in the end. These let a share never fail; not yet failed are so "
    "many of the others at the end of the attack. Their AIC compares with that of the fits above; p is the probability "
    "of so much evidence for such a share if there is none."
)


def survivors(report: Report) -> Section | None:
    """What the mixture-cure fits say on the report's first clock that has any, and the mean over all samples."""
    clocks = [clock for clock in report.clock_reports if clock.cure_fits]
    if not clocks:
        return None
    shown = [clock for clock in clocks if _with_numbers(clock)]
    asked = (shown or clocks)[0]
    return Section(
        title="how many never fail?",
        answer=" ".join([_answer(asked), *_hurdle(report)]),
        tables=tuple(_table(clock) for clock in shown),
        notes=(*_notes(report, clocks), *([_DEFINITION] if shown else [])),
        drawings=lambda: _drawings(shown),
    )


def _with_numbers(clock: ClockReport) -> list[CureFit]:
    return [fit for fit in clock.cure_fits if fit.status in (_OK, _NO_CURED_SHARE)]


def _answer(clock: ClockReport) -> str:
    known = _with_numbers(clock)
    if not known:
        return f"That cannot be told: {clock.cure_fits[0].status_message}."
    best = known[0]
    name, value = distribution_word(best.distribution), share_interval(best.cured_share)
    if best.status == _NO_CURED_SHARE:
        text = "None need be assumed: the data are likeliest if every sample fails in the end"
        if best.cured_share.HasField("upper"):
            text += f", and at most {share(best.cured_share.upper)} never do"
        return f"{text} ({name} fit). {_follow_up(best)}"
    others = f"Half of the others fail by {with_unit(on_clock(best.median, clock.clock), clock.clock)}."
    plain = min((fit for fit in clock.fits if has_numbers(fit)), key=lambda fit: fit.aic, default=None)
    if plain is not None and plain.aic <= best.aic + _NOT_RULED_OUT:
        return (
            f"Perhaps none: the best estimate is {value} of the samples at risk ({name} fit), but the "
            f"{distribution_word(plain.distribution)} fit in which every sample fails in the end is not ruled out (AIC "
            f"{plain.aic:.1f} against {best.aic:.1f}). {others}"
        )
    return (
        f"An estimated {value} of the samples at risk never fail, {_however(clock)} ({name} fit). {others} "
        f"{_follow_up(best)}"
    )


def _however(clock: ClockReport) -> str:
    return "however far this attack goes" if clock.clock == DISTANCE else "whatever this attack spends"


def _follow_up(fit: CureFit) -> str:
    if fit.follow_up != _SHORT:
        return "The attack was long enough to tell."
    return f"The attack was too short to be sure: {fit.follow_up_message}."


def _hurdle(report: Report) -> Iterator[str]:
    """The mean over all samples on the first clock that has one."""
    for clock in report.clock_reports:
        fit = next(iter(clock.fits), None)
        if fit is None or not clock.hurdle_restricted_mean.HasField("value"):
            continue
        mean = with_unit(on_clock(clock.hurdle_restricted_mean, clock.clock), clock.clock)
        end = with_unit(value_on_clock(fit.restriction_time, clock.clock), clock.clock)
        missed, what = report.misclassified_count, "distance" if clock.clock == DISTANCE else "time"
        said = [f"the {count(missed)} misclassified before the attack counted as failed at 0"] if missed else []
        said += ["at the average setting of the jobs"] if len(fit.coefficients) > 1 else []
        aside = f", {', '.join(said)}," if said else ""
        yield f"Over all {count(report.sample_count)} samples{aside} the mean {what} up to {end} is {mean}."
        return


def _table(clock: ClockReport) -> SectionTable:
    rows = tuple(
        (
            distribution_word(fit.distribution),
            _share(fit),
            share(fit.unfailed_share),
            on_clock(fit.median, clock.clock),
            f"{fit.aic:.1f}",
            _p(fit),
        )
        for fit in _with_numbers(clock)
    )
    caption = f"Fits with a share that never fails, on the {clock_word(clock.clock)} clock, best AIC first"
    return SectionTable(caption, _COLUMNS, rows)


def _share(fit: CureFit) -> str:
    if fit.status == _NO_CURED_SHARE and fit.cured_share.HasField("upper"):
        return f"0 %, at most {share(fit.cured_share.upper)}"
    return share_interval(fit.cured_share)


def _p(fit: CureFit) -> str:
    if not fit.HasField("p_value"):
        return NOTHING
    return "< 0.001" if fit.p_value < 0.001 else number(fit.p_value, 2)


def _notes(report: Report, clocks: list[ClockReport]) -> Iterator[str]:
    """Where the distributions or the clocks differ, and why fits have no numbers, each reason once."""
    for clock in clocks:
        found = [fit for fit in _with_numbers(clock) if fit.status == _OK]
        values = [fit.cured_share.value for fit in found]
        if len(values) > 1 and max(values) - min(values) > 0.05:
            yield (
                f"On the {clock_word(clock.clock)} clock the distributions disagree: from {share(min(values))} to "
                f"{share(max(values))} never fail."
            )
    reasons: dict[str, list[str]] = {}
    # What the answer says of all fits is not said again.
    said = {fit.status_message for clock in clocks for fit in clock.cure_fits}
    if len(said) == 1 and not any(map(_with_numbers, clocks)):
        return
    for clock in clocks:
        for fit in clock.cure_fits:
            if fit.status not in (_OK, _NO_CURED_SHARE):
                name = f"{distribution_word(fit.distribution)} in {clock_word(clock.clock)}"
                reasons.setdefault(fit.status_message, []).append(name)
    for message, names in reasons.items():
        listed = ", ".join(names)
        yield f"{listed[:1].upper()}{listed[1:]}: {message}."


def _drawings(shown: list[ClockReport]) -> list[Markup]:
    from cli.html.charts import mixture_figure

    return [drawn for clock in shown[:1] if (drawn := mixture_figure(clock))]
