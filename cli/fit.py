"""`afrctl fit`: accelerated failure models of times to failure of any origin."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from cli.commands import StrictCommand
from cli.errors import Misuse
from cli.fit_diagnostics import diagnostics_blocks, diagnostics_object
from cli.options import distribution_number, distribution_option, level, survival_address

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Coefficient, Distribution, Estimate, Fit, FitOutcomesResponse


_MANY_ROWS = 100_000
"""With more than these a fit takes seconds, and who waits is told what for."""

# Those of survreg; the two with a shape are fitted if asked for.
_WITHOUT_SHAPE = ("weibull", "log-normal", "log-logistic", "exponential")


@click.command(cls=StrictCommand)
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@distribution_option(", ".join(_WITHOUT_SHAPE))
@click.option("--ignore", "ignored", metavar="COLUMN", multiple=True,
              help="A column that the fits do not use; may be given several times.")  # fmt: skip
@click.option("--confidence-level", type=level, metavar="SHARE", help="The level of the intervals.  [default: 0.95]")
@click.option("--format", "output_format", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="How to print the fits.")  # fmt: skip
@survival_address
def fit(
    path: Path, distributions: tuple[Distribution.ValueType, ...], ignored: tuple[str, ...],
    confidence_level: float | None, output_format: str, survival_address: str,
) -> None:  # fmt: skip
    """Fit times to failure from a CSV or Parquet file.

    Each row of FILE failed between its duration_lower and its duration_upper: equal bounds are an exact time, a lower
    bound of 0 is left-censored, an empty or infinite upper bound right-censored. A column weight says how many times a
    row counts, a column cluster which rows belong together (for clustered standard errors). Every other numeric
    column is a covariate. Coefficients and scale are those of log T = x'beta + sigma epsilon, as R's survreg prints
    them; time may have any unit. Without --survival-address, and without a stack of `afrctl up`, a survival server is
    started for this command.

    \b
    Example:
      afrctl fit times.csv
      afrctl fit times.csv --distribution weibull --distribution log-normal --format json
      afrctl fit lifetimes.parquet --ignore batch --confidence-level 0.9
    """
    from afr.survival.v1.survival_service_pb2 import FitOutcomesRequest, ReportOptions

    from cli.connecting import survival_server
    from cli.data_files import open_data
    from cli.locating import fitting_address
    from cli.observation_files import LOWER, UPPER, covariate_names, observation_batches
    from cli.outcome_files import holds_samples
    from cli.submitting import submit

    file = open_data(path)
    if LOWER not in file.columns and holds_samples(file):
        raise Misuse(f"{path} holds outcomes of samples: report on it with `afrctl report --outcomes {path}`")
    for column in (LOWER, UPPER):
        file.position(column)
    covariates, left_out = covariate_names(file, ignored)
    if left_out:
        columns = f"column{'s' if len(left_out) > 1 else ''} {', '.join(left_out)}"
        click.echo(f"note: {columns} left out: no cell is a number", err=True)
    # All of it before anything starts: a bad cell in the last line is told at once, and nothing was fitted in vain.
    batches = list(observation_batches(file, covariates, ignored))
    row_count = sum(len(part.duration_lower) for part in batches)
    if row_count > _MANY_ROWS:
        click.echo(f"note: {path} is read; fitting its {_many(row_count, 'row')}", err=True)
    options = ReportOptions(confidence_level=confidence_level or 0.0)
    options.distributions.extend(distributions or tuple(map(distribution_number, _WITHOUT_SHAPE)))
    requests = [FitOutcomesRequest(options=options), *(FitOutcomesRequest(observation_batch=part) for part in batches)]
    with fitting_address(survival_address) as address, survival_server(address) as server:
        fitted = submit(server, server.stub.FitOutcomes, requests)
    click.echo(fits_json(fitted) if output_format == "json" else fits_text(fitted), nl=output_format != "json")


def fits_json(fitted: FitOutcomesResponse) -> str:
    """The fits as JSON; numbers that the data do not carry are null, infinite ones the text `Infinity`."""
    content = {
        "observation_count": fitted.observation_count,
        "failure_count": fitted.failure_count,
        "fits": [_fit_object(one) for one in fitted.fits],
        "diagnostics": diagnostics_object(fitted),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def fits_text(fitted: FitOutcomesResponse) -> str:
    """The fits as tables, best AIC first, and why the others have no numbers."""
    from cli.quantities import distribution_word, effect_bound, has_numbers, interval, share
    from cli.rendering import paragraph, terminal_columns
    from cli.tables import table, visible_width

    numbers = [one for one in fitted.fits if has_numbers(one)]
    blocks = [f"{_many(fitted.observation_count, 'observation')}, {_many(fitted.failure_count, 'failure')}"]
    if numbers:
        columns = (
            "distribution", "AIC", "AICc", "weight", "BIC", "log L", "scale σ", "shape Q", "median", "concordance",
        )  # fmt: skip
        criteria = [
            (
                distribution_word(one.distribution), f"{one.aic:.2f}", _known(one, "aicc", ".2f"),
                share(one.akaike_weight) if one.HasField("akaike_weight") else "–",
                f"{one.bic:.2f}", f"{one.log_likelihood:.2f}", f"{one.scale:.6g}",
                _known(one, "shape", ".6g"), interval(one.median), _known(one, "concordance", ".3f"),
            )
            for one in numbers
        ]  # fmt: skip
        criteria_table = table(columns, criteria, right=(1, 2, 3, 4, 5, 6, 7, 9))
        if max(map(visible_width, criteria_table.splitlines())) <= terminal_columns():
            blocks.append(criteria_table)
        else:  # What compares the fits first, then what they say; nothing is left out.
            for chosen in ((0, 1, 2, 3, 4, 5), (0, 6, 7, 8, 9)):
                part = [[row[i] for i in chosen] for row in (columns, *criteria)]
                words = [place for place, i in enumerate(chosen) if i not in (0, 8)]
                blocks.append(table(part[0], part[1:], right=words))
    for one in numbers:
        header = (f"{distribution_word(one.distribution)}, log time", "estimate", "standard error", "time ratio")
        effects = [
            (c.covariate, f"{c.estimate:.6g}", f"{c.standard_error:.6g}", _time_ratio(c)) for c in one.coefficients
        ]
        if one.log_scale_standard_error > 0:  # An exponential's scale is 1 and has none.
            effects.append(("ln σ", f"{math.log(one.scale):.6g}", f"{one.log_scale_standard_error:.6g}", ""))
        if one.HasField("shape_standard_error"):
            effects.append(("shape Q", f"{one.shape:.6g}", f"{one.shape_standard_error:.6g}", ""))
        effects += [(bound.covariate, "–", "–", effect_bound(bound)) for bound in one.effect_bounds]
        blocks.append(table(header, effects, right=(1, 2)))
    of_reason: dict[str, list[str]] = {}
    for one in fitted.fits:
        of_reason.setdefault(_reason(one), []).append(distribution_word(one.distribution))
    reasons = [f"{', '.join(names)}: {reason}" for reason, names in of_reason.items() if reason]
    dropped = dict.fromkeys(f"left out: {sentence}" for one in fitted.fits for sentence in one.dropped_covariates)
    if reasons or dropped:
        blocks.append("\n".join(paragraph(line, terminal_columns(), "", "  ") for line in [*reasons, *dropped]))
    if fitted.HasField("diagnostics"):
        blocks.extend(diagnostics_blocks(fitted))
    return "\n\n".join(blocks)


def _many(number: int, word: str) -> str:
    """A number of things."""
    from cli.quantities import count

    return f"{count(number)} {word}{'' if number == 1 else 's'}"


def _known(one: Fit, field: Literal["aicc", "concordance", "shape"], digits: str) -> str:
    """A number that a fit may lack."""
    return format(getattr(one, field), digits) if one.HasField(field) else "–"


def _time_ratio(coefficient: Coefficient) -> str:
    """By what one unit of a covariate multiplies time; nothing for the intercept, which multiplies nothing."""
    from cli.quantities import interval

    return "" if coefficient.covariate == "intercept" else interval(coefficient.time_ratio)


def _reason(one: Fit) -> str:
    """What to know of a fit beside its numbers, or why it has none, and what is known all the same."""
    from cli.quantities import number, share_interval

    if one.HasField("failure_probability"):
        known = f"{share_interval(one.failure_probability)} had failed by {number(one.failure_probability_time)}"
        return f"{one.status_message} ({known})"
    return "" if one.status_message == "the fit can be used" else one.status_message


def _fit_object(one: Fit) -> dict[str, Any]:
    from afr.survival.v1.survival_service_pb2 import Distribution
    from afr.survival.v1.survival_service_pb2 import Fit as FitMessage

    from cli.quantities import has_numbers

    usable = has_numbers(one)

    def known(value: float) -> float | None:
        return value if usable else None

    return {
        "distribution": _word(Distribution.Name(one.distribution), "DISTRIBUTION_"),
        "status": _word(FitMessage.Status.Name(one.status), "STATUS_"),
        "status_message": one.status_message,
        "log_likelihood": known(one.log_likelihood),
        "aic": known(one.aic),
        "aicc": one.aicc if one.HasField("aicc") else None,
        "bic": known(one.bic),
        "bic_events": known(one.bic_events),
        "akaike_weight": one.akaike_weight if one.HasField("akaike_weight") else None,
        "parameter_count": one.parameter_count,
        "scale": known(one.scale),
        "log_scale_standard_error": known(one.log_scale_standard_error),
        "shape": one.shape if one.HasField("shape") else None,
        "shape_standard_error": one.shape_standard_error if one.HasField("shape_standard_error") else None,
        "degrees_of_freedom": one.degrees_of_freedom if one.HasField("degrees_of_freedom") else None,
        "coefficients": [
            {
                "covariate": c.covariate,
                "estimate": c.estimate,
                "standard_error": c.standard_error,
                "time_ratio": _estimate_object(c.time_ratio),
            }
            for c in one.coefficients
        ],
        "effect_bounds": [
            {
                "covariate": bound.covariate,
                "lower": bound.lower if bound.HasField("lower") else None,
                "upper": bound.upper if bound.HasField("upper") else None,
                "level": bound.level,
                "message": bound.message,
            }
            for bound in one.effect_bounds
        ],
        "median": _estimate_object(one.median),
        "failure_probability": _estimate_object(one.failure_probability),
        "failure_probability_time": one.failure_probability_time if one.HasField("failure_probability") else None,
        "concordance": one.concordance if one.HasField("concordance") else None,
        "iteration_count": one.iteration_count,
        "dropped_covariates": list(one.dropped_covariates),
    }


def _estimate_object(estimate: Estimate) -> dict[str, float | str | None] | None:
    if not estimate.HasField("value"):
        return None
    ends = {
        name: (getattr(estimate, name) if estimate.HasField(name) else None) for name in ("value", "lower", "upper")
    }
    return {name: "Infinity" if end == float("inf") else end for name, end in ends.items()}


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", "-")
