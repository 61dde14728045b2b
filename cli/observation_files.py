"""Files of observed times to failure, of any origin, as the messages that `FitOutcomes` takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cli.data_files import Cell, DataFile, is_empty, is_number, number, shown
from cli.errors import Misuse, Problem

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import ObservationBatch

LOWER, UPPER, WEIGHT, CLUSTER = "duration_lower", "duration_upper", "weight", "cluster"
_CELLS_PER_MESSAGE = 200_000
"""A message stays well below the four megabytes that gRPC takes."""


def covariate_names(file: DataFile, ignored: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that are covariates, and those that are none because no cell in them is a number.

    Raises `Problem` for an ignored column that the file lacks, and for one in which some cells are numbers and some
    are not, and `Misuse` if the times are to be ignored.
    """
    for column in ignored:
        file.position(column)
        if column in (LOWER, UPPER):
            raise Misuse(f"--ignore {column}: there is nothing to fit without it; ignore another column")
    others = [name for name in file.columns if name not in (LOWER, UPPER, WEIGHT, CLUSTER) and name not in ignored]
    first = next(iter(file.rows()), None)
    if first is None:
        raise Problem(f"{file.path} has no rows below its header; give observations")
    doubtful = {name: file.position(name) for name in others if not is_number(first[1][file.position(name)])}
    if doubtful:
        for _, cells in file.rows():
            for name, at in doubtful.items():
                if is_number(cells[at]):
                    raise _no_covariate(file, first[0], name, first[1][at])
    for name in others:
        if name.lower() in (WEIGHT, CLUSTER):
            raise Problem(
                f"{file.path}: {name} would be a covariate; rename it {name.lower()}, or give --ignore {name}"
            )
    if "intercept" in others and "intercept" not in doubtful:
        raise Problem(f"{file.path}: every fit has an intercept; rename the column intercept, or --ignore it")
    return tuple(name for name in others if name not in doubtful), tuple(doubtful)


def observation_batches(
    file: DataFile, covariates: Sequence[str], ignored: Sequence[str] = ()
) -> Iterator[ObservationBatch]:
    """The rows of a file in messages of bounded size, their weights and clusters too unless they are ignored.

    Raises `Problem`, naming line and column, for a bad cell.
    """
    from afr.survival.v1.survival_service_pb2 import Covariate, ObservationBatch

    low, high = file.position(LOWER), file.position(UPPER)
    weight, cluster = (
        file.columns.index(name) if name in file.columns and name not in ignored else None for name in (WEIGHT, CLUSTER)
    )
    places = [file.position(name) for name in covariates]
    most = max(1, _CELLS_PER_MESSAGE // (4 + len(places)))
    lower: list[float] = []
    upper: list[float] = []
    weights: list[float] = []
    clusters: list[str] = []
    columns: list[list[float]] = [[] for _ in places]

    def message() -> ObservationBatch:
        named = [Covariate(name=name, value=column) for name, column in zip(covariates, columns, strict=True)]
        return ObservationBatch(
            duration_lower=lower, duration_upper=upper, weight=weights, cluster=clusters, covariates=named
        )

    for line, cells in file.rows():
        where = file.where(line)
        start, end = _interval(cells[low], cells[high], where)
        lower.append(start)
        upper.append(end)
        if weight is not None:
            weights.append(_weight(cells[weight], where))
        if cluster is not None:
            clusters.append(_cluster(cells[cluster], where))
        for name, at, column in zip(covariates, places, columns, strict=True):
            value = cells[at]
            if not is_number(value):
                raise _no_covariate(file, line, name, value)
            column.append(number(value, where, f"covariate {name}"))
        if len(lower) == most:
            yield message()
            for sent in (lower, upper, weights, *columns):
                sent.clear()
            clusters.clear()
    if lower:
        yield message()


def _interval(low: Cell, high: Cell, where: str) -> tuple[float, float]:
    if is_empty(low):
        raise Problem(f"{where}: {LOWER} is empty; write 0 where the failure may have come at any time before {UPPER}")
    start = number(low, where, LOWER)
    if start < 0:
        raise Problem(f"{where}: {LOWER} is {shown(low)}; a duration is not negative")
    if is_empty(high):
        return start, math.inf
    if not is_number(high):
        raise Problem(f"{where}: {UPPER} is {shown(high)}, which is no number; leave it empty where nothing failed")
    end = float(high)  # type: ignore[arg-type]  # a number, so not None
    if end <= 0:
        raise Problem(f"{where}: {UPPER} is {shown(high)}; a failure takes longer than 0")
    if start > end:
        raise Problem(f"{where}: {LOWER} {shown(low)} is above {UPPER} {shown(high)}; exchange them, or repair the row")
    return start, end


def _weight(cell: Cell, where: str) -> float:
    value = number(cell, where, WEIGHT)
    if value <= 0:
        raise Problem(f"{where}: {WEIGHT} is {shown(cell)}; a row counts more than 0 times: leave it out instead")
    return value


def _cluster(cell: Cell, where: str) -> str:
    if is_empty(cell):
        raise Problem(f"{where}: {CLUSTER} is empty; name the cluster of every row, or leave the column out")
    return str(cell).strip()


def _no_covariate(file: DataFile, line: int, name: str, cell: Cell) -> Problem:
    return Problem(
        f"{file.where(line)}: covariate {name} is {shown(cell)}, which is no number; recode it, or give --ignore {name}"
    )
