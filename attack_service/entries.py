"""The entries of the catalogue: models, datasets, attacks, defences, and the parameters that they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ParameterSchema:
    """A number that an attack or a defence takes. `default_derived`: `description` says what the default depends on.

    `unit` is empty for a switch; `paper_values` are those that arXiv 2401.13751 tried.
    """

    name: str
    description: str
    default_value: float
    minimum: float
    minimum_exclusive: bool
    maximum: float
    integer: bool = False
    default_derived: bool = False
    unit: str = ""
    paper_values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A model architecture. `depth` counts its weighted layers."""

    name: str
    description: str
    depth: int


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack, the norms and engines it knows (the default first), and its parameters.

    `access` is what it sees of the model: `gradients`, `logits` or `decisions`. `failure` says what counts as one and
    what a check is. `maxima` gives the most queries and gradients that it spends on a sample with these parameters, 0
    if nobody knows. With `open_parameters` it takes others as well, of which only the worker knows.
    """

    name: str
    description: str
    parameters: tuple[ParameterSchema, ...]
    norms: tuple[str, ...]
    engines: tuple[str, ...]
    access: str
    failure: str
    maxima: Callable[[Mapping[str, float]], tuple[int, int]]
    open_parameters: bool = False


@dataclass(frozen=True, slots=True)
class Defence:
    """A defence of the model, and its parameters. `trains`: it acts in training, and the weights depend on it."""

    name: str
    description: str
    parameters: tuple[ParameterSchema, ...]
    trains: bool = False


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset of labelled images; counts are 0 where they depend on the files."""

    name: str
    description: str
    class_count: int
    training_sample_count: int
    test_sample_count: int
    channel_count: int
    embedded: bool
    default_epoch_count: int
