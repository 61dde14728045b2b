"""Rows that a client submits to `FitOutcomes`: options first, then outcomes or observations, never both."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from afr.outcome.v1 import outcome_pb2 as outcome_pb
from afr.survival.v1 import survival_service_pb2 as pb

from survival_service.adapters import wire
from survival_service.errors import InvalidObservations, InvalidRequest, OutcomesCorrupt
from survival_service.observations import Clock, Observations, OutcomeTable
from survival_service.reporting import ObservationFits, ReportOptions, fit_observations

MOST_ROWS = 2_000_000
MOST_COVARIATES = 100


class Submission:
    """What one client has submitted so far. Methods raise `InvalidRequest`, naming the field of the message."""

    def __init__(self) -> None:
        self._options: ReportOptions | None = None
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
            self._options = wire.report_options(request.options)
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
            rows = _joined(self._tables, clock)
            misclassified = sum(table.misclassified_count for table in self._tables.values())
            return fit_observations(rows, self._options, clock=clock, misclassified_count=misclassified)
        if not self._row_count:
            raise InvalidRequest("content", "no rows were sent; send outcomes or observations after the options")
        try:
            rows = wire.observations(self._batches)
        except InvalidRequest as error:
            raise InvalidObservations(f"observation_batch.{error.field}", str(error)) from error
        return fit_observations(rows, self._options, clock=self._options.clock)

    def _add_rows(self, count: int, field: str) -> None:
        self._row_count += count
        if self._row_count > MOST_ROWS:
            raise InvalidRequest(field, f"more than {MOST_ROWS} rows; use weights, or fit a sample of them")

    def _add_outcomes(self, batch: outcome_pb.OutcomeBatch) -> None:
        table = self._tables.setdefault((batch.weights_digest, batch.dataset_digest, batch.spec_digest), OutcomeTable())
        try:
            columns, in_flight = wire.outcome_columns(batch), wire.in_flight_columns(batch)
        except InvalidObservations as error:
            raise InvalidObservations(f"outcome_batch.{error.field}", str(error)) from error
        try:
            table.add(columns, in_flight, shard_index=batch.shard_index)
        except OutcomesCorrupt as error:
            # Lost data is the attack service's to answer for; a row sent twice is the client's mistake.
            raise InvalidObservations("outcome_batch.sample_index", str(error)) from error

    def _add_observations(self, batch: pb.ObservationBatch) -> None:
        if len(batch.covariates) > MOST_COVARIATES:
            raise InvalidRequest(
                "observation_batch.covariates", f"{len(batch.covariates)} covariates; give at most {MOST_COVARIATES}"
            )
        self._batches.append(batch)


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
