"""Rows that a client submits: options first, then one kind of rows.

`FitOutcomes` takes outcomes or observations, `ReportOutcomes` a job with its outcomes or totals of experiments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from afr.outcome.v1 import outcome_pb2 as outcome_pb
from afr.survival.v1 import survival_service_pb2 as pb

from survival_service.adapters.wire import batch_messages, job_messages, request_messages
from survival_service.aggregating import report_experiments
from survival_service.errors import InvalidObservations, InvalidRequest, OutcomesCorrupt
from survival_service.observations import Clock, Observations
from survival_service.outcome_table import OutcomeTable
from survival_service.reporting import fit_observations, make_report
from survival_service.reports import ObservationFits, Report, ReportOptions
from survival_service.wording import SPENT_IN, how_to_tell_training_cost

MOST_ROWS = 2_000_000
MOST_COVARIATES = 100


class Submission:
    """What one client has submitted so far. Methods raise `InvalidRequest`, naming the field of the message."""

    def __init__(self) -> None:
        self._options: ReportOptions | None = None
        # Observations are counted in whatever their client says, and in nothing known if it says nothing.
        self._clock: Clock | None = None
        # Outcomes of different weights, data or specifications count samples each from 0.
        self._tables: dict[tuple[str, str, str], OutcomeTable] = {}
        self._batches: list[pb.ObservationBatch] = []
        self._row_count = 0

    def add(self, request: pb.FitOutcomesRequest) -> None:
        """Take the next message of the stream."""
        content = request.WhichOneof("content")
        if self._options is None:
            if content != "options":
                raise InvalidRequest("options", "the first message must have options; they may be empty")
            self._options = request_messages.report_options(request.options)
            self._clock = self._options.clock if request.options.clock else None
            return
        match content:
            case "outcome_batch":
                if self._batches:
                    raise InvalidRequest("outcome_batch", "outcomes cannot be mixed with observations; fit them apart")
                self._add_rows(len(request.outcome_batch.sample_index), "outcome_batch")
                self._add_outcomes(request.outcome_batch)
            case "observation_batch":
                if self._tables:
                    raise InvalidRequest(
                        "observation_batch", "observations cannot be mixed with outcomes; fit them apart"
                    )
                self._add_rows(len(request.observation_batch.duration_lower), "observation_batch")
                self._add_observations(request.observation_batch)
            case "options":
                raise InvalidRequest("options", "options may stand in the first message only")
            case _:
                raise InvalidRequest("content", "a message has neither outcomes nor observations")

    def fit(self) -> ObservationFits:
        """Fit everything submitted."""
        if self._options is None:
            raise InvalidRequest("options", "the stream ended before its first message, which must have options")
        if self._tables:
            clock = self._options.clock
            if clock is Clock.DISTANCE:
                raise InvalidRequest(
                    "options.clock",
                    "outcomes alone do not say in which norm and at which epsilon they were attacked, so they have no "
                    "clock of distance; report on their jobs instead",
                )
            rows = _joined(self._tables, clock)
            misclassified = sum(table.misclassified_count for table in self._tables.values())
            return fit_observations(rows, self._options, clock=clock, misclassified_count=misclassified)
        if not self._row_count:
            raise InvalidRequest("content", "no rows were sent; send outcomes or observations after the options")
        try:
            rows = batch_messages.observations(self._batches)
        except InvalidRequest as error:
            raise InvalidObservations(f"observation_batch.{error.field}", str(error)) from error
        return fit_observations(rows, self._options, clock=self._clock)

    def _add_rows(self, count: int, field: str) -> None:
        self._row_count += count
        if self._row_count > MOST_ROWS:
            raise InvalidRequest(field, f"more than {MOST_ROWS} rows; use weights, or fit a sample of them")

    def _add_outcomes(self, batch: outcome_pb.OutcomeBatch) -> None:
        table = self._tables.setdefault((batch.weights_digest, batch.dataset_digest, batch.spec_digest), OutcomeTable())
        _add_outcomes(table, batch)

    def _add_observations(self, batch: pb.ObservationBatch) -> None:
        if len(batch.covariates) > MOST_COVARIATES:
            raise InvalidRequest(
                "observation_batch.covariates", f"{len(batch.covariates)} covariates; give at most {MOST_COVARIATES}"
            )
        self._batches.append(batch)


class ReportSubmission:
    """What one client has submitted for a report. Methods raise `InvalidRequest`, naming the field of the message."""

    def __init__(self) -> None:
        self._options: ReportOptions | None = None
        self._job: pb.SubmittedJob | None = None
        self._table = OutcomeTable()
        self._batches: list[pb.ExperimentBatch] = []
        self._row_count = 0

    def add(self, request: pb.ReportOutcomesRequest) -> None:
        """Take the next message of the stream."""
        content = request.WhichOneof("content")
        if self._options is None:
            if content != "options":
                raise InvalidRequest("options", "the first message must have options; they may be empty")
            self._options = request_messages.report_options(request.options)
            return
        match content:
            case "job":
                if self._job is not None or self._batches:
                    raise InvalidRequest("job", "a report is of one job, or of experiments; report on each apart")
                self._job = request.job
            case "outcome_batch":
                if self._job is None:
                    raise InvalidRequest("outcome_batch", "outcomes come after the job that they are outcomes of")
                self._count(len(request.outcome_batch.sample_index), "outcome_batch")
                _add_outcomes(self._table, request.outcome_batch)
            case "experiment_batch":
                if self._job is not None:
                    raise InvalidRequest(
                        "experiment_batch", "experiments cannot be mixed with a job; report on them apart"
                    )
                if len(request.experiment_batch.covariates) > MOST_COVARIATES:
                    raise InvalidRequest("experiment_batch.covariates", f"give at most {MOST_COVARIATES} covariates")
                self._count(len(request.experiment_batch.sample_count), "experiment_batch")
                self._batches.append(request.experiment_batch)
            case "options":
                raise InvalidRequest("options", "options may stand in the first message only")
            case _:
                raise InvalidRequest("content", "a message has neither a job nor outcomes nor experiments")

    def report(self) -> Report:
        """Report on everything submitted."""
        if self._options is None:
            raise InvalidRequest("options", "the stream ended before its first message, which must have options")
        if self._job is not None:
            facts = job_messages.submitted_job(self._job, sample_count=self._table.outcome_count)
            missing = tuple(
                f"the outcomes were submitted without what training cost in {SPENT_IN[clock]}, so there is no rate in "
                f"{SPENT_IN[clock]}; {how_to_tell_training_cost(clock)}"
                for clock, cost in (
                    (Clock.QUERIES, facts.training_passes_per_sample),
                    (Clock.SECONDS, facts.training_seconds_per_sample),
                )
                if cost <= 0
            )
            stated = "what training cost was stated by whoever submitted the outcomes, not measured by this service"
            told = (stated,) if len(missing) < 2 else ()
            return make_report([(replace(facts, warnings=missing + told), self._table)], self._options)
        if not self._row_count:
            raise InvalidRequest("content", "nothing was sent; send a job with outcomes, or experiments")
        try:
            experiments = batch_messages.experiments(self._batches)
        except InvalidRequest as error:
            raise InvalidObservations(f"experiment_batch.{error.field}", str(error)) from error
        return report_experiments(experiments, self._options)

    def _count(self, rows: int, field: str) -> None:
        self._row_count += rows
        if self._row_count > MOST_ROWS:
            raise InvalidRequest(field, f"more than {MOST_ROWS} rows; report on a sample of them")


def _add_outcomes(table: OutcomeTable, batch: outcome_pb.OutcomeBatch) -> None:
    try:
        columns = batch_messages.outcome_columns(batch)
    except InvalidObservations as error:
        raise InvalidObservations(f"outcome_batch.{error.field}", str(error)) from error
    try:
        in_flight = batch_messages.in_flight_columns(batch)
    except InvalidObservations as error:
        raise InvalidObservations(f"outcome_batch.in_flight.{error.field}", str(error)) from error
    try:
        table.add(columns, in_flight, shard_index=batch.shard_index)
    except OutcomesCorrupt as error:
        # Lost data is the attack service's to answer for; a row sent twice is the client's mistake.
        raise InvalidObservations("outcome_batch.sample_index", str(error)) from error


def _joined(tables: Mapping[tuple[str, str, str], OutcomeTable], clock: Clock) -> Observations:
    """The rows of all tables; a sample of one dataset that several of them attacked is one cluster."""
    if len(tables) == 1:
        return next(iter(tables.values())).observations(clock)
    parts: list[Observations] = []
    images: list[tuple[str, int]] = []
    for (_, dataset_digest, _), table in tables.items():
        part, samples = table.rows(clock)
        parts.append(part)
        images.extend((dataset_digest, sample) for sample in samples.tolist())
    number = {image: i for i, image in enumerate(dict.fromkeys(images))}
    lower, upper, weight = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("lower", "upper", "weight")
    )
    return Observations(
        lower,
        upper,
        weight,
        np.empty((lower.size, 0)),
        cluster=np.array([number[image] for image in images], dtype=np.int64),
        check=np.concatenate([part.check for part in parts if part.check is not None]),
    )
