"""Covariates: what differs between jobs, as columns of a design, without those that say the same twice."""

from __future__ import annotations

from survival_service.observations import FloatArray


def independent_columns(matrix: FloatArray, names: tuple[str, ...]) -> tuple[list[int], tuple[str, ...]]:
    """The columns (in order) that are neither constant nor combinations of others, and a sentence for each other."""
    raise NotImplementedError
