"""Rows from their messages: outcomes and samples in flight, observations, experiments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from afr.outcome.v1 import outcome_pb2 as outcome_pb
from afr.survival.v1 import survival_service_pb2 as pb

from survival_service.errors import InvalidObservations
from survival_service.experiments import Experiments
from survival_service.observations import InFlightColumns, Observations, OutcomeColumns

_EXPERIMENT_COLUMNS = (
    "sample_count",
    "failure_count",
    "misclassified_count",
    "attack_seconds",
    "training_seconds_per_sample",
)
_MAY_BE_EMPTY = ("misclassified_count", "training_seconds_per_sample")


def outcome_columns(batch: outcome_pb.OutcomeBatch) -> OutcomeColumns:
    """Raises `InvalidObservations`, naming the column, for rows that are no outcomes."""
    return OutcomeColumns(
        sample_index=_integers(batch.sample_index),
        verdict=_integers(batch.verdict),
        label=_integers(batch.label),
        clean_prediction=_integers(batch.clean_prediction),
        adversarial_prediction=_integers(batch.adversarial_prediction),
        query_count_lower=_integers(batch.query_count_lower),
        query_count_upper=_integers(batch.query_count_upper),
        gradient_count_lower=_integers(batch.gradient_count_lower),
        gradient_count_upper=_integers(batch.gradient_count_upper),
        seconds_lower=_floats(batch.seconds_lower),
        seconds_upper=_floats(batch.seconds_upper),
        distance_l2=_floats(batch.distance_l2),
        distance_linf=_floats(batch.distance_linf),
        distance_l0=_integers(batch.distance_l0),
        check_count=_integers(batch.check_count),
        clean_seconds=_floats(batch.clean_seconds),
    )


def in_flight_columns(batch: outcome_pb.OutcomeBatch) -> InFlightColumns:
    """Raises `InvalidObservations`, naming the column."""
    in_flight = batch.in_flight
    return InFlightColumns(
        sample_index=_integers(in_flight.sample_index),
        check_count=_integers(in_flight.check_count),
        query_count=_integers(in_flight.query_count),
        gradient_count=_integers(in_flight.gradient_count),
        seconds=_floats(in_flight.seconds),
    )


def observations(batches: Iterable[pb.ObservationBatch]) -> Observations:
    """All batches as one. They must agree on whether they have weights and clusters, and on their covariates.

    Raises `InvalidObservations`, naming the column.
    """
    lower: list[float] = []
    upper: list[float] = []
    weight: list[float] = []
    cluster: list[str] = []
    covariates: dict[str, list[float]] = {}
    shape: tuple[bool, bool, tuple[str, ...]] | None = None
    for batch in batches:
        names = tuple(covariate.name for covariate in batch.covariates)
        _check_observation_batch(batch)
        if not batch.duration_lower:
            continue
        shape = shape or (bool(batch.weight), bool(batch.cluster), names)
        for field, first, here in zip(
            ("weight", "cluster", "covariates"), shape, (bool(batch.weight), bool(batch.cluster), names), strict=True
        ):
            if first != here:
                message = f"every batch must have the same {field} as the first, in the same order, or none"
                raise InvalidObservations(field, message)
        lower.extend(batch.duration_lower)
        upper.extend(batch.duration_upper)
        weight.extend(batch.weight)
        cluster.extend(batch.cluster)
        for covariate in batch.covariates:
            covariates.setdefault(covariate.name, []).extend(covariate.value)
    return Observations.of(lower, upper, weight or None, {**covariates} or None, cluster or None)


def experiments(batches: Iterable[pb.ExperimentBatch]) -> Experiments:
    """All batches as one. They must agree on their covariates.

    Raises `InvalidObservations`, naming the column.
    """
    group: list[str] = []
    columns: dict[str, list[float]] = {name: [] for name in _EXPERIMENT_COLUMNS}
    covariates: dict[str, list[float]] = {}
    names: tuple[str, ...] | None = None
    for batch in batches:
        rows, own = len(batch.sample_count), tuple(covariate.name for covariate in batch.covariates)
        names = own if names is None else names
        if own != names:
            message = "every batch must have the same covariates as the first, in the same order"
            raise InvalidObservations("covariates", message)
        _check_covariates(batch.covariates, rows)
        group.extend(batch.group or [""] * rows)
        for name, column in columns.items():
            column.extend(getattr(batch, name) or ([0.0] * rows if name in _MAY_BE_EMPTY else []))
        for covariate in batch.covariates:
            covariates.setdefault(covariate.name, []).extend(covariate.value)
    return Experiments(
        group=tuple(group),
        covariates=np.array([*covariates.values()], dtype=np.float64)
        .reshape(len(covariates), len(columns["sample_count"]))
        .T,
        names=tuple(covariates),
        **{name: _floats(column) for name, column in columns.items()},
    )


def _integers(column: Iterable[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(column, dtype=np.int64)


def _floats(column: Iterable[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(column, dtype=np.float64)


def _check_observation_batch(batch: pb.ObservationBatch) -> None:
    rows = len(batch.duration_lower)
    for field, length in (("duration_upper", len(batch.duration_upper)), ("weight", len(batch.weight) or rows)):
        if length != rows:
            raise InvalidObservations(field, f"{field} has {length} entries, duration_lower has {rows}")
    if len(batch.cluster) not in (0, rows):
        raise InvalidObservations("cluster", f"cluster has {len(batch.cluster)} entries, duration_lower has {rows}")
    _check_covariates(batch.covariates, rows)


def _check_covariates(covariates: Sequence[pb.Covariate], rows: int) -> None:
    names = [covariate.name for covariate in covariates]
    if "" in names or "intercept" in names or len(set(names)) < len(names):
        message = "covariates must have different names, none of them empty or 'intercept'"
        raise InvalidObservations("covariates", message)
    for covariate in covariates:
        if len(covariate.value) != rows:
            message = f"covariate {covariate.name!r} has {len(covariate.value)} values for {rows} rows"
            raise InvalidObservations("covariates", message)
