"""Files of outcomes as the messages that `ReportOutcomes` takes: a row a sample, or a row an experiment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.data_files import Cell, DataFile, is_empty, is_number, named, number, shown
from cli.errors import Misuse, Problem
from cli.outcomes import COLUMNS, JOB_COLUMNS, VERDICTS

if TYPE_CHECKING:
    from afr.outcome.v1.outcome_pb2 import OutcomeBatch
    from afr.survival.v1.survival_service_pb2 import ExperimentBatch

_ROWS_PER_MESSAGE = 10_000
_UNFINISHED = ("queued", "running", "failed", "canceled")
_MOST_COVARIATES = 100
# 32 years; a message holds the sum of hundreds of them.
_MOST_SECONDS = 1e9

EXPERIMENT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "sample_count": ("attack.attack_size",),
    "attack_seconds": ("adv_fit_time",),
    "failure_count": (),
    "misclassified_count": (),
    "accuracy": (),
    "adversarial_accuracy": ("adv_accuracy",),
    "training_seconds_per_sample": ("train_time_per_sample",),
    "group": ("atk_gen",),
}
"""The columns of experiments, each with the names under which the data of arXiv 2401.13751 have it."""


@dataclass(frozen=True, slots=True)
class ExperimentReading:
    """How the rows of experiments are read.

    `columns` says which column of the file is one of `EXPERIMENT_COLUMNS` where its name does not, `covariates` which
    others the fits use. With `count_clean_errors` samples that were wrong before the attack count as failures. With
    `skip_incomplete` rows with an empty cell are left out. `training_seconds_per_sample` holds for every row of a file
    that has no such column; 0 if it is not known.
    """

    columns: Mapping[str, str]
    covariates: Sequence[str] = ()
    count_clean_errors: bool = False
    skip_incomplete: bool = False
    training_seconds_per_sample: float = 0.0

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in EXPERIMENT_COLUMNS:
                raise Misuse(f"--column {name}: there is no such quantity; known: {', '.join(EXPERIMENT_COLUMNS)}")


def holds_samples(file: DataFile) -> bool:
    """Whether this is an `outcomes.csv`, a row a sample; else its rows are experiments."""
    return "verdict" in file.columns and "sample_index" in file.columns


# --- A row a sample


def outcome_batches(file: DataFile) -> Iterator[OutcomeBatch]:
    """The rows of an `outcomes.csv`. Raises `Problem`, naming line and column, for a bad cell."""
    from afr.outcome.v1.outcome_pb2 import OutcomeBatch

    places = {name: file.position(name) for name in COLUMNS}
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    seen: set[float] = set()
    for line, cells in file.rows():
        where = file.where(line)
        row = {name: cells[at] for name, at in places.items()}
        verdict = _verdict(row["verdict"], where)
        for name, cell in row.items():
            columns[name].append(verdict if name == "verdict" else _outcome_cell(name, cell, verdict, where))
        if VERDICTS[verdict] == "failed":
            _check_failure({name: columns[name][-1] for name in COLUMNS}, where)
        sample = columns["sample_index"][-1]
        if sample in seen:
            raise Problem(f"{where}: sample {sample:.0f} stands there twice; a sample has one outcome")
        seen.add(sample)
        if len(columns["verdict"]) == _ROWS_PER_MESSAGE:
            yield OutcomeBatch(**columns)  # type: ignore[arg-type]  # whole numbers are checked to be whole
            columns = {name: [] for name in COLUMNS}
    if columns["verdict"]:
        yield OutcomeBatch(**columns)  # type: ignore[arg-type]
    elif not seen:
        raise Problem(f"{file.path} has no rows below its header; give outcomes")


def unfinished_job(file: DataFile) -> Mapping[str, Any]:
    """What an `outcomes.csv` says of a job that had not succeeded, as fields of `SubmittedJob`; nothing of others.

    Raises `Problem`, naming line and column, for a bad cell.
    """
    if any(name not in file.columns for name in JOB_COLUMNS):
        return {}
    places = [file.position(name) for name in JOB_COLUMNS]
    line, cells = next(file.rows(), (0, ()))
    state, sample_count, shard_count = [cells[at] for at in places] if cells else (None, None, None)
    if is_empty(state) or state == "succeeded":
        return {}
    if state not in _UNFINISHED:
        known = ", ".join(("succeeded", *_UNFINISHED))
        raise Problem(f"{file.where(line)}: job_state is {shown(state)}; known: {known}")
    whole = {
        name: _outcome_cell(f"job_{name}", cell, 0, file.where(line))
        for name, cell in (("sample_count", sample_count), ("shard_count", shard_count))
    }
    return {"canceled": True, **{name: int(value) for name, value in whole.items()}}


def _verdict(cell: Cell, where: str) -> int:
    text = "" if cell is None else str(cell).strip().lower()
    for value, word in VERDICTS.items():
        if text == word:
            return value
    raise Problem(f"{where}: verdict is {shown(cell)}; known: {', '.join(VERDICTS.values())}")


def _outcome_cell(name: str, cell: Cell, verdict: int, where: str) -> float:
    whole = "seconds" not in name and name not in ("distance_l2", "distance_linf")
    if name.endswith("_upper") and is_empty(cell):
        if VERDICTS[verdict] == "failed":
            raise Problem(f"{where}: {name} is empty, but the sample failed; write when")
        return -1 if whole else math.inf
    value = number(cell, where, name)
    if value < 0:
        raise Problem(f"{where}: {name} is {shown(cell)}; it is not negative")
    if "seconds" in name and value >= _MOST_SECONDS:
        raise Problem(f"{where}: {name} is {shown(cell)}, more than any attack takes; write seconds")
    if whole and not (value == int(value) and value < 2**32):
        raise Problem(f"{where}: {name} is {shown(cell)}, which is no whole number below 2^32")
    return int(value) if whole else value


def _check_failure(row: Mapping[str, float], where: str) -> None:
    """Raises `Problem` if a failure ends before it begins, or cost nothing."""
    for quantity in ("query_count", "gradient_count", "seconds"):
        lower, upper = row[f"{quantity}_lower"], row[f"{quantity}_upper"]
        if lower > upper:
            raise Problem(f"{where}: {quantity}_lower {lower:g} is above {quantity}_upper {upper:g}; exchange them")
    for name in ("query_count_upper", "seconds_upper"):
        if row[name] <= 0:
            raise Problem(f"{where}: {name} is 0, but the sample failed; write what it cost up to then")


# --- A row an experiment


def experiment_batches(file: DataFile, reading: ExperimentReading) -> tuple[list[ExperimentBatch], int]:
    """The rows of a file of experiments, and how many were left out because a cell was empty.

    Raises `Problem`, naming line and column, for a bad cell.
    """
    from afr.survival.v1.survival_service_pb2 import Covariate, ExperimentBatch

    places = experiment_columns(file, reading)
    chosen = {name: file.position(name) for name in reading.covariates}
    rows, skipped = _complete_rows(file, [*places.values(), *chosen.values()], reading.skip_incomplete)
    coded = _coded(file, rows, chosen)
    totals = [_totals(cells, places, reading, file.where(line)) for line, cells in rows]
    batches = []
    for first in range(0, len(rows), _ROWS_PER_MESSAGE):
        part = slice(first, first + _ROWS_PER_MESSAGE)
        batches.append(
            ExperimentBatch(
                **{name: [row[name] for row in totals[part]] for name in totals[0]},
                covariates=[Covariate(name=name, value=column[part]) for name, column in coded.items()],
            )
        )
    return batches, skipped


def experiment_columns(file: DataFile, reading: ExperimentReading) -> dict[str, int]:
    """Where the quantities that the file has stand."""
    found = {}
    for name, others in EXPERIMENT_COLUMNS.items():
        if name in reading.columns:
            found[name] = file.position(reading.columns[name])
            continue
        known = [own for own in (name, *others) if own in file.columns]
        if known:
            found[name] = file.position(known[0])
    needed = ["sample_count", "attack_seconds"]
    if "failure_count" not in found:
        needed.append("adversarial_accuracy")
        if not reading.count_clean_errors:
            needed.append("accuracy")
    if "duration_lower" in file.columns and not found:
        raise Problem(f"{file.path} holds times to failure and no outcomes; `afrctl fit {file.path}` fits them")
    for name in needed:
        if name not in found:
            or_else = " (or failure_count)" if "accuracy" in name else ""
            raise Problem(
                f"{file.path}: no column is {name}{or_else}; name one with --column {name}=COLUMN; the columns are "
                f"{named(file.columns)}"
            )
    return found


def _complete_rows(
    file: DataFile, places: Sequence[int], skip_incomplete: bool
) -> tuple[list[tuple[int, Sequence[Cell]]], int]:
    rows, skipped = [], 0
    for line, cells in file.rows():
        empty = next((at for at in places if is_empty(cells[at])), None)
        if empty is None:
            rows.append((line, cells))
        elif skip_incomplete:
            skipped += 1
        else:
            raise Problem(
                f"{file.where(line)}: {file.columns[empty]} is empty; fill it in, or leave such rows out with "
                "--skip-incomplete"
            )
    if not rows:
        raise Problem(f"{file.path} has no {'complete ' if skipped else ''}rows below its header; give experiments")
    return rows, skipped


def _coded(
    file: DataFile, rows: Sequence[tuple[int, Sequence[Cell]]], chosen: Mapping[str, int]
) -> dict[str, list[float]]:
    """The covariates as numbers: text is coded as treatments against its first value in the file."""
    columns: dict[str, list[float]] = {}
    for name, at in chosen.items():
        cells = [cells[at] for _, cells in rows]
        if is_number(cells[0]):
            columns[name] = [
                number(cell, file.where(line), f"covariate {name}") for (line, _), cell in zip(rows, cells, strict=True)
            ]
            continue
        words = [str(cell).strip() for cell in cells]
        reference, *others = dict.fromkeys(words)
        for level in others:
            columns[f"{name}={level} (against {reference})"] = [float(word == level) for word in words]
    if len(columns) > _MOST_COVARIATES:
        raise Problem(f"{file.path}: {len(columns)} covariates are more than {_MOST_COVARIATES}; choose fewer")
    return columns


def _totals(cells: Sequence[Cell], places: Mapping[str, int], reading: ExperimentReading, where: str) -> dict[str, Any]:
    """The totals of one experiment, under the names of `ExperimentBatch`."""
    values = {name: _not_negative(cells[at], where, name) for name, at in places.items() if name != "group"}
    for name in ("sample_count", "attack_seconds"):
        if values[name] <= 0:
            raise Problem(f"{where}: {name} is {shown(cells[places[name]])}; it must be above 0")
    if values["attack_seconds"] >= _MOST_SECONDS:
        cell = cells[places["attack_seconds"]]
        raise Problem(f"{where}: attack_seconds is {shown(cell)}, more than any attack takes; write seconds")
    for name in ("accuracy", "adversarial_accuracy"):
        if values.get(name, 0.0) > 1:
            raise Problem(f"{where}: {name} is {shown(cells[places[name]])}; a share is at most 1")
    samples = values["sample_count"]
    if "failure_count" in values:
        failed, wrong = values["failure_count"], values.get("misclassified_count", 0.0)
    else:
        # Without the accuracy before the attack nothing can be told to have been wrong before.
        before = 1.0 if reading.count_clean_errors else values["accuracy"]
        failed, wrong = samples * max(0.0, before - values["adversarial_accuracy"]), samples * (1 - before)
    if failed + wrong > samples * (1 + 1e-9):
        raise Problem(f"{where}: {failed:g} failed and {wrong:g} misclassified samples are more than {samples:g}")
    if reading.count_clean_errors:
        failed, wrong = failed + wrong, 0.0
    return {
        "group": str(cells[places["group"]]).strip() if "group" in places else "all experiments",
        "sample_count": samples,
        "failure_count": failed,
        "misclassified_count": wrong,
        "attack_seconds": values["attack_seconds"],
        "training_seconds_per_sample": values.get("training_seconds_per_sample", reading.training_seconds_per_sample),
    }


def _not_negative(cell: Cell, where: str, name: str) -> float:
    value = number(cell, where, name)
    if value < 0:
        raise Problem(f"{where}: {name} is {shown(cell)}; it is not negative")
    return value
