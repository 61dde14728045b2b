"""`afrctl evaluate`: train or load, attack, fit, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.commands import StrictCommand
from cli.errors import Misuse, Problem
from cli.model_choice import ModelChoice, model_options
from cli.options import (
    attack_address,
    clock_option,
    data_folder,
    distribution_option,
    factor,
    make_options,
    positive,
    report_options,
    settings,
    strength_options,
    survival_address,
    whole,
    workers_option,
)

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Distribution, Precision, Report

    from cli.evaluation import Evaluation


@click.command(cls=StrictCommand)
@model_options
@click.option(
    "--data-root",
    type=data_folder,
    metavar="DIR",
    help="Where datasets are read from and downloaded to; made if need be.",
)
@click.option(
    "--attack",
    required=True,
    metavar="NAME",
    help="The attack, for example pgd; `afrctl attacks` lists them. art:CLASS is any other evasion attack of the "
    "toolbox, for example art:SignOPTAttack.",
)
@click.option("--engine", default="", metavar="native|art", help="What runs the attack.  [default: native]")
@click.option(
    "--epsilon",
    type=positive,
    metavar="NUMBER",
    help="How far a perturbation may go, with inputs in [0, 1]: for example 0.03 or 8/255.",
)
@click.option(
    "--norm",
    type=click.Choice(["inf", "2", "1", "0"], case_sensitive=False),
    help="What measures the perturbation.  [default: the first that the attack knows]",
)
@click.option("--step-size", type=positive, metavar="NUMBER", help="How far one step goes.")
@click.option("--max-iterations", type=whole, metavar="COUNT", help="The most steps of an attack.")
@strength_options
@click.option("--samples", type=whole, metavar="COUNT", help="How many test samples to attack.")
@click.option("--shards", type=whole, metavar="COUNT",
              help="Into how many parts to divide the samples; each worker runs one at a time.  [default: as many as "
                   "workers are there, of a batch at least]")  # fmt: skip
@click.option("--until-precision", type=factor, metavar="FACTOR",
              help="Stop as soon as an interval that all looks hold together is narrower than ×/÷ FACTOR, for example "
                   "1.2, and 20 samples have failed.")  # fmt: skip
@click.option("--until-quantity", type=click.Choice(["median", "restricted-mean", "failure-share"]),
              help="What --until-precision is the precision of.  [default: median]")  # fmt: skip
@workers_option
@clock_option("queries", "seconds")
@distribution_option("weibull, log-normal, log-logistic")
@report_options
@survival_address
@attack_address
@click.option("--redis-url", envvar="AFRCTL_REDIS_URL", default="", hidden=True)
def evaluate(
    choice: ModelChoice, data_root: Path | None, attack: str, engine: str, epsilon: float | None, norm: str | None,
    step_size: float | None, max_iterations: int | None, attack_parameter: Sequence[tuple[str, float]], defence: str,
    defence_parameter: Sequence[tuple[str, float]], samples: int | None,
    shards: int | None, until_precision: float | None, until_quantity: str | None, workers: int | None,
    clock: str, distributions: tuple[Distribution.ValueType, ...], price_usd_per_hour: float | None, output: Path,
    output_format: str, quiet: bool,
    attack_address: str, survival_address: str, redis_url: str,
) -> None:  # fmt: skip
    """Attack a model and report how long it survives.

    Attacks it sample by sample, and says how long samples survive and what that robustness cost.

    Trains the model, or takes it from the store if it was trained before. Writes report.json, report.html and
    outcomes.csv (one row a sample) into the output folder and replaces files of these names there.

    Without addresses it uses the stack of `afrctl up`, or else starts its own on this machine and stops it at the end.

    \b
    Example:
      afrctl evaluate --model resnet50 --attack pgd
      afrctl evaluate --model resnet18 --attack pgd --epsilon 0.1 --samples 500 --price-usd-per-hour 2.5
      afrctl evaluate --model resnet50 --weights IMAGENET1K_V2 --attack pgd --dataset imagefolder:imagenet
      afrctl evaluate --model resnet18 --attack pgd --defence jpeg --defence-parameter quality=50
      afrctl evaluate --model resnet50 --attack pgd --workers 4 --shards 8
      afrctl evaluate --model resnet50 --attack pgd --samples 5000 --until-precision 1.2
      afrctl evaluate --model resnet18 --attack fgm --attack-address gpu:50051 --survival-address gpu:50052
    """
    if attack == "none":
        raise Misuse("--attack none attacks nothing, so there is nothing to report; `afrctl train` trains a model")
    # Without --norm it is the attack's first one, which the attack service knows and holds epsilon to.
    if epsilon is not None and epsilon > 1 and norm == "inf":
        levels = f"; {epsilon:g} of 255 levels is {epsilon:g}/255" if epsilon <= 255 else ""
        raise Misuse(
            f"--epsilon {epsilon:g} is above 1, but inputs lie in [0, 1]: give at most 1 with --norm inf{levels}"
        )
    if until_quantity and until_precision is None:
        raise Misuse("--until-quantity has no effect without --until-precision: leave it out, or give FACTOR too")
    from afr.attack.v1.attack_service_pb2 import AttackJob, AttackSpec

    named = {"epsilon": epsilon, "step_size": step_size, "max_iterations": max_iterations}
    spec = AttackSpec(
        **choice.fields(here=not attack_address),
        attack=attack,
        attack_parameters=settings("--attack-parameter", attack_parameter, **named),
        defence=defence,
        defence_parameters=settings("--defence-parameter", defence_parameter),
        engine=engine,
        sample_count=samples or 0,
        # The workers of an own stack are still starting when the server could count them.
        shard_count=shards or min(workers or 0, samples or 64),
        norm=norm or "",
    )

    from cli.evaluation import Evaluation
    from cli.files import output_folder
    from cli.locating import services
    from cli.progress import choose_display

    display = choose_display(quiet=quiet)
    try:
        with (
            output_folder(output) as folder,
            services(attack_address, survival_address, announce=display.note, data_root=data_root,
                     workers=workers, redis_url=redis_url) as located,
        ):  # fmt: skip
            evaluation = Evaluation(located, display, folder)
            options = make_options(clock, price_usd_per_hour)
            options.distributions.extend(distributions)
            precision = None if until_precision is None else _precision(until_precision, until_quantity or "median")
            report = evaluation.run(spec, options, precision)
            display.close()
            _publish(evaluation, report, folder, output_format, quiet)
            state = evaluation.final_state
    finally:
        display.close()
    if state == AttackJob.STATE_CANCELED and not report.stopping.met:
        raise Problem("the job was canceled by someone else, so the report covers only the samples attacked until then")


def _precision(factor: float, quantity: str) -> Precision:
    from afr.survival.v1.survival_service_pb2 import Precision, Quantity

    return Precision(interval_factor=factor, quantity=Quantity.Value(f"QUANTITY_{quantity.upper().replace('-', '_')}"))


def _publish(evaluation: Evaluation, report: Report, folder: Path, output_format: str, quiet: bool) -> None:
    from cli.publishing import publish

    publish(report, folder, output_format=output_format, outcomes=evaluation.outcomes)
    if not quiet:
        click.echo(f"\nreport.html, report.json and outcomes.csv are in {folder}", err=True)
