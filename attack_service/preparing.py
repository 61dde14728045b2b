"""Making the model ready that a job attacks: from the store, or trained and stored."""

from __future__ import annotations

import hashlib
import json
import socket
from dataclasses import asdict

import torch
from torch import Tensor, nn

from attack_service import models
from attack_service.checkpoints import Store, StoredModel
from attack_service.datasets import Dataset
from attack_service.devices import device_name
from attack_service.errors import CheckpointInvalid
from attack_service.evaluating import CleanEvaluation, evaluate
from attack_service.hardening import harden
from attack_service.jobs import AttackSpec, Ledger, ModelRecord, Phase, Progress
from attack_service.known_defences import DEFENCES
from attack_service.training import Recipe, TrainingStep, train


def load_or_train(
    spec: AttackSpec,
    dataset: Dataset,
    ledger: Ledger,
    store: Store,
    device: torch.device,
    *,
    prepared: ModelRecord | None = None,
) -> tuple[nn.Module, ModelRecord] | None:
    """The trained model and its record; None if the job was canceled meanwhile.

    A model that was `prepared` already, by another shard of the job or an earlier attempt, is only loaded: raises
    `CheckpointInvalid` if the store does not hold it.
    """
    architecture = models.Architecture(spec.model, spec.stem, dataset.channel_count, dataset.class_count)
    recipe = Recipe()
    specification: dict[str, object] = {
        **asdict(architecture),
        "image_size": spec.image_size,
        "epoch_count": spec.epoch_count,
        "seed": spec.seed,
        "recipe": asdict(recipe),
        "training_digest": dataset.train.digest(),
        "test_digest": dataset.test.digest(),
    }
    if DEFENCES[spec.defence].trains:
        specification |= {"defence": spec.defence, "defence_parameters": dict(spec.defence_parameters)}
    key = hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()
    # Initial weights come from the job's seed, and the process's own generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        classifier = models.build(architecture)
    mean, deviation = dataset.channel_statistics()
    classifier.mean.copy_(mean.reshape(1, -1, 1, 1))
    classifier.deviation.copy_(deviation.reshape(1, -1, 1, 1))
    try:
        loaded = store.load(key)
    except CheckpointInvalid as error:
        if prepared is not None:
            raise
        ledger.warn(f"the stored model could not be used and was trained anew: {error}")
        loaded = None
    if prepared is not None and (loaded is None or loaded[0].weights_digest != prepared.weights_digest):
        raise CheckpointInvalid(
            f"the store {store.root} of this worker ({socket.gethostname()}) does not hold the model "
            f"{prepared.weights_digest} that the job was prepared with; give every worker the same --store"
        )
    if loaded is not None:
        stored, tensors = loaded
        try:
            classifier.load_state_dict(tensors)
        except RuntimeError as error:
            raise CheckpointInvalid(
                f"the weights {stored.weights_digest} do not fit {spec.model}; "
                "remove them from the models folder of the store"
            ) from error
        return classifier, _record(stored, classifier, dataset, device, from_store=True)

    def report(step: TrainingStep) -> None:
        ledger.progress(
            Progress(
                Phase.TRAINING,
                done_count=step.step,
                total_count=step.step_count,
                remaining_seconds=step.remaining_seconds,
                epoch=step.epoch,
                loss=step.loss,
                accuracy=step.accuracy,
            )
        )

    seconds = train(
        classifier,
        dataset.train,
        recipe=recipe,
        epoch_count=spec.epoch_count,
        seed=spec.seed,
        device=device,
        perturb=harden(spec.defence, spec.defence_parameters, seed=spec.seed),
        resumed=store.load_training(key),
        save=lambda state: store.save_training(key, state),
        report=report,
        canceled=ledger.cancel_requested,
    )
    if seconds is None:
        return None
    clean = measure(classifier.eval(), spec, dataset, ledger, device)
    if clean is None:
        return None
    stored = StoredModel(
        weights_digest=store.save_weights(classifier.state_dict()),
        training_seconds=seconds,
        training_sample_count=len(dataset.train),
        epoch_count=spec.epoch_count,
        clean_accuracy=clean.accuracy,
        test_sample_count=len(dataset.test),
        training_device_name=device_name(device),
    )
    store.save_record(key, stored, specification)
    return classifier, _record(stored, classifier, dataset, device, from_store=False)


def _record(
    stored: StoredModel, classifier: nn.Module, dataset: Dataset, device: torch.device, *, from_store: bool
) -> ModelRecord:
    return ModelRecord(
        **asdict(stored),
        parameter_count=models.parameter_count(classifier),
        class_count=dataset.class_count,
        attack_device_name=device_name(device),
        from_store=from_store,
    )


def measure(
    model: nn.Module,
    spec: AttackSpec,
    dataset: Dataset,
    ledger: Ledger,
    device: torch.device,
    *,
    indices: Tensor | None = None,
) -> CleanEvaluation | None:
    """Measure a model on the clean test split, or on `indices` of it; None if the job was canceled meanwhile."""
    total_count = len(dataset.test) if indices is None else len(indices)

    def report(done_count: int) -> None:
        ledger.progress(Progress(Phase.EVALUATING, done_count=done_count, total_count=total_count))

    return evaluate(
        model,
        dataset.test,
        batch_size=spec.batch_size,
        device=device,
        report=report,
        canceled=ledger.cancel_requested,
        indices=indices,
    )
