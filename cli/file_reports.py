"""A report from a file of outcomes: `afrctl report --outcomes`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.errors import Misuse
from cli.options import seconds, whole

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Report, ReportOptions

F = TypeVar("F", bound=Callable[..., Any])


def column_of(value: str) -> tuple[str, str]:
    """A quantity and its column, `NAME=COLUMN`."""
    name, separator, column = (part.strip() for part in value.partition("="))
    if not (name and separator and column):
        raise click.BadParameter(f"{value!r} is no NAME=COLUMN, such as sample_count=n")
    return name, column


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What the command line says about a file of outcomes; empty and None where it says nothing."""

    training_seconds: float | None
    training_samples: int | None
    epochs: int | None
    model: str
    dataset: str
    attack: str
    columns: tuple[tuple[str, str], ...]
    covariates: tuple[str, ...]
    count_clean_errors: bool
    skip_incomplete: bool

    def __post_init__(self) -> None:
        if (self.training_seconds is None) != (self.training_samples is None):
            raise Misuse("--training-seconds and --training-samples belong together: give both, or neither")

    @property
    def given(self) -> tuple[str, ...]:
        """The options that were given."""
        spelled = {"columns": "--column", "covariates": "--covariate"}
        return tuple(
            spelled.get(field.name, f"--{field.name.replace('_', '-')}")
            for field in fields(self)
            if getattr(self, field.name)
        )


_OF_SAMPLES = ("--epochs", "--model", "--dataset", "--attack")
_OF_EXPERIMENTS = ("--column", "--covariate", "--count-clean-errors", "--skip-incomplete")


def file_options(command: F) -> F:
    """What may be said about a file of outcomes, as options."""
    for option in (
        click.option("--skip-incomplete", is_flag=True,
                     help="Of experiments: leave out rows in which a cell that is used is empty."),
        click.option("--count-clean-errors", is_flag=True,
                     help="Of experiments: count samples that were wrong before the attack as failures."),
        click.option("--covariate", "covariates", multiple=True, metavar="COLUMN",
                     help="Of experiments: a column that the fit uses; may be given several times."),
        click.option("--column", "columns", type=column_of, multiple=True, metavar="NAME=COLUMN",
                     help="Of experiments: which column is sample_count or another quantity; repeatable."),
        click.option("--attack", default="", metavar="NAME", help="Of samples: how the report names the attack."),
        click.option("--dataset", default="", metavar="NAME", help="Of samples: how the report names the dataset."),
        click.option("--model", default="", metavar="NAME", help="Of samples: how the report names the model."),
        click.option("--epochs", type=whole, metavar="COUNT",
                     help="Of samples: the epochs of training, for the rate in queries."),
        click.option("--training-samples", type=whole, metavar="COUNT", help="The distinct samples trained on."),
        click.option("--training-seconds", type=seconds, metavar="SECONDS",
                     help="Device seconds of training, for the rate in seconds."),
        click.option("--outcomes", type=click.Path(path_type=Path), metavar="FILE",
                     help="Report on this outcomes.csv, or on totals of experiments, in place of jobs."),
    ):  # fmt: skip
        command = option(command)
    return command


def report_on_file(path: Path, said: FileOptions, options: ReportOptions, survival_address: str) -> Report:
    """The report on a file, made by a survival server; one is started if there is none.

    Raises `Problem` for a file that cannot be used, `Misuse` for options that do not fit it.
    """
    from cli.connecting import survival_server
    from cli.data_files import open_data
    from cli.locating import fitting_address
    from cli.outcome_files import holds_samples
    from cli.submitting import submit

    file = open_data(path)
    unfit, kind = (_OF_EXPERIMENTS, "samples") if holds_samples(file) else (_OF_SAMPLES, "experiments")
    if useless := [option for option in said.given if option in unfit]:
        raise Misuse(f"{useless[0]} has no effect on {path}, whose rows are {kind}: leave it out")
    requests = _of_samples(file, said, options) if kind == "samples" else _of_experiments(file, said, options)
    with fitting_address(survival_address) as address, survival_server(address) as server:
        report: Report = submit(server, server.stub.ReportOutcomes, requests).report
    return report


def _of_samples(file: Any, said: FileOptions, options: ReportOptions) -> list[Any]:
    from afr.survival.v1.survival_service_pb2 import ReportOutcomesRequest, SubmittedJob

    from cli.outcome_files import outcome_batches, unfinished_job

    job = SubmittedJob(
        attack_job_id=file.path.name,
        model=said.model,
        dataset=said.dataset,
        attack=said.attack,
        training_sample_count=said.training_samples or 0,
        epoch_count=said.epochs or 0,
        **unfinished_job(file),
    )
    if said.training_seconds is not None:
        job.training_duration.FromNanoseconds(round(said.training_seconds * 1e9))
    return [
        ReportOutcomesRequest(options=options),
        ReportOutcomesRequest(job=job),
        *(ReportOutcomesRequest(outcome_batch=batch) for batch in outcome_batches(file)),
    ]


def _of_experiments(file: Any, said: FileOptions, options: ReportOptions) -> list[Any]:
    from afr.survival.v1.survival_service_pb2 import ReportOutcomesRequest

    from cli.outcome_files import ExperimentReading, experiment_batches, experiment_columns

    per_sample = 0.0
    if said.training_seconds is not None and said.training_samples is not None:
        per_sample = said.training_seconds / said.training_samples
    reading = ExperimentReading(
        columns=dict(said.columns),
        covariates=tuple(dict.fromkeys(said.covariates)),
        count_clean_errors=said.count_clean_errors,
        skip_incomplete=said.skip_incomplete,
        training_seconds_per_sample=per_sample,
    )
    if per_sample and "training_seconds_per_sample" in experiment_columns(file, reading):
        raise Misuse(
            "--training-seconds has no effect, since the file says what training cost each experiment: leave it out, "
            "or rename that column"
        )
    batches, skipped = experiment_batches(file, reading)
    if skipped:
        click.echo(f"note: {skipped} row{'s' if skipped > 1 else ''} left out: a cell is empty", err=True)
    return [
        ReportOutcomesRequest(options=options),
        *(ReportOutcomesRequest(experiment_batch=batch) for batch in batches),
    ]
