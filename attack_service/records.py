"""What the model store says of its models, readable without torch: the parent of a worker lists them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attack_service.jobs import AttackSpec, ModelRecord

RECORDS = "records"
MODELS = "models"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """What the store knows of a trained model. Seconds are synchronised device time over all epochs.

    `epoch_count` epochs were trained, fewer than asked for if training stopped early; `create_time` is in seconds since
    1970, and `precision` what training computed in. Raises `ValueError` for what cannot be a record, such as one that
    was edited by hand.
    """

    weights_digest: str
    training_seconds: float
    training_sample_count: int
    training_evaluation_count: int
    epoch_count: int
    clean_accuracy: float
    test_sample_count: int
    training_device_name: str
    parameter_count: int
    precision: str
    create_time: float

    def __post_init__(self) -> None:
        texts = (self.weights_digest, self.training_device_name, self.precision)
        numbers = (self.training_seconds, self.clean_accuracy, self.create_time)
        counts = (
            self.training_sample_count,
            self.training_evaluation_count,
            self.epoch_count,
            self.test_sample_count,
            self.parameter_count,
        )
        if not (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int | float) and math.isfinite(number) and number >= 0 for number in numbers)
            and all(isinstance(count, int) and count > 0 for count in counts)
            and self.clean_accuracy <= 1
        ):
            raise ValueError(f"{self} is no record of a trained model")

    def model_record(self, class_count: int, attack_device_name: str = "") -> ModelRecord:
        """The record of a job that attacks this model from the store."""
        return ModelRecord(
            weights_digest=self.weights_digest,
            training_seconds=self.training_seconds,
            training_sample_count=self.training_sample_count,
            training_evaluation_count=self.training_evaluation_count,
            epoch_count=self.epoch_count,
            clean_accuracy=self.clean_accuracy,
            test_sample_count=self.test_sample_count,
            training_device_name=self.training_device_name,
            parameter_count=self.parameter_count,
            class_count=class_count,
            attack_device_name=attack_device_name,
            from_store=True,
        )


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model in a store: the fields of a specification that training depended on, and what came of it."""

    spec: AttackSpec
    record: ModelRecord
    create_time: datetime


def decode(content: bytes) -> tuple[StoredModel, Mapping[str, Any]]:
    """A record's file: the model, and the specification that it was trained for. Raises `ValueError`."""
    try:
        entries = json.loads(content)
        return StoredModel(**{field.name: entries[field.name] for field in fields(StoredModel)}), entries[
            "specification"
        ]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def trained_models(root: Path) -> tuple[TrainedModel, ...]:
    """Every model of a store, newest first. What is damaged, or of an older layout, is left out."""
    found = []
    for path in (root / RECORDS).glob("*.json"):
        try:
            stored, specification = decode(path.read_bytes())
            if (root / MODELS / f"{stored.weights_digest}.safetensors").is_file():
                found.append(_trained(stored, specification))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return tuple(sorted(found, key=lambda model: (model.create_time, model.record.weights_digest), reverse=True))


def _trained(stored: StoredModel, specification: Mapping[str, Any]) -> TrainedModel:
    spec = AttackSpec(
        model=str(specification["model"]),
        dataset=str(specification["dataset"]),
        attack="",
        epoch_count=int(specification["epoch_count"]),
        seed=int(specification["seed"]),
        stem=str(specification["stem"]),
        image_size=int(specification["image_size"]),
        defence=str(specification.get("defence", "none")),
        defence_parameters={str(k): float(v) for k, v in specification.get("defence_parameters", {}).items()},
    )
    record = stored.model_record(int(specification["class_count"]))
    return TrainedModel(spec, record, datetime.fromtimestamp(stored.create_time, UTC))
