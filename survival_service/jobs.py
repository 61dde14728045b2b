"""What the attack service says about an attack job: its specification, its model, what that model cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class JobFacts:
    """One attack job as far as a report needs it. Seconds are device seconds, accuracies shares in [0, 1].

    `sample_count` is what was asked for; fewer outcomes mean a partial job. `canceled` says that the job was stopped.
    """

    attack_job_id: str
    model: str
    dataset: str
    attack: str
    engine: str = ""
    norm: str = ""
    attack_parameters: Mapping[str, float] = field(default_factory=dict)
    defence: str = "none"
    defence_parameters: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    sample_count: int = 0
    shard_count: int = 1
    stem: str = ""
    image_size: int = 0
    canceled: bool = False
    attempt_count: int = 1
    warnings: tuple[str, ...] = ()
    # The model record; zeros and empty strings where a job ended before its model was ready.
    weights_digest: str = ""
    dataset_digest: str = ""
    training_seconds: float = 0.0
    training_sample_count: int = 0
    epoch_count: int = 0
    clean_accuracy: float = 0.0
    test_sample_count: int = 0
    class_count: int = 0
    parameter_count: int = 0
    training_device_name: str = ""
    attack_device_name: str = ""
    from_store: bool = False
    training_evaluation_count: int = 0
    defended_accuracy: float = 0.0
    clean_rejection_share: float = 0.0
    randomized: bool = False

    @property
    def training_seconds_per_sample(self) -> float:
        """Device seconds of training, all epochs, per distinct training sample."""
        return self.training_seconds / self.training_sample_count if self.training_sample_count else 0.0

    @property
    def training_passes_per_sample(self) -> float:
        """Forward and backward evaluations that training spent on each training sample; two an epoch if not counted.

        A defence that trains on attacked samples has paid for those attacks too.
        """
        if self.training_evaluation_count and self.training_sample_count:
            return self.training_evaluation_count / self.training_sample_count
        return 2.0 * self.epoch_count
