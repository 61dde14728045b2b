"""Making the model ready that a job attacks: from the store, trained and stored, or brought by the user."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from attack_service import models
from attack_service.checkpoints import Store
from attack_service.datasets import Dataset
from attack_service.devices import device_name
from attack_service.errors import CheckpointInvalid
from attack_service.evaluating import CleanEvaluation, evaluate
from attack_service.hardening import harden
from attack_service.importing import bring, require_sound
from attack_service.jobs import AttackSpec, Ledger, ModelRecord, Phase, Progress
from attack_service.known_defences import DEFENCES
from attack_service.records import StoredModel
from attack_service.training import TrainingStep, precision_name, recipe_for, train


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
    `CheckpointInvalid` if the store, or the user's file, is another one.
    """
    if spec.brought:
        return _bring(spec, dataset, ledger, device, prepared)
    architecture = models.Architecture(spec.model, spec.stem, dataset.channel_count, dataset.class_count)
    recipe = recipe_for(spec.dataset)
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
    # Not part of the key: the same images under another name, or in another folder, are the same dataset.
    specification["dataset"] = spec.dataset
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
        return classifier, stored.model_record(dataset.class_count, device_name(device))

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

    training = train(
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
    if training is None:
        return None
    clean = measure(classifier.eval(), spec, dataset, ledger, device)
    if clean is None:
        return None
    stored = StoredModel(
        weights_digest=store.save_weights(classifier.state_dict()),
        training_seconds=training.seconds,
        training_sample_count=training.sample_count,
        training_evaluation_count=training.evaluation_count,
        epoch_count=training.epoch_count,
        clean_accuracy=clean.accuracy,
        test_sample_count=len(dataset.test),
        training_device_name=device_name(device),
        parameter_count=models.parameter_count(classifier),
        precision=precision_name(device, recipe),
        create_time=time.time(),
    )
    store.save_record(key, stored, specification)
    return classifier, replace(stored.model_record(dataset.class_count, device_name(device)), from_store=False)


def _bring(
    spec: AttackSpec, dataset: Dataset, ledger: Ledger, device: torch.device, prepared: ModelRecord | None
) -> tuple[nn.Module, ModelRecord] | None:
    """The user's own model, checked, and measured unless it was `prepared`."""
    brought = bring(spec, dataset, device)
    if prepared is not None:
        if brought.digest != prepared.weights_digest:
            raise CheckpointInvalid(
                f"{brought.source} on this worker ({socket.gethostname()}) is not the file that the job was prepared "
                f"with (SHA-256 {prepared.weights_digest}); give every worker the same one"
            )
        return brought.model, replace(prepared, attack_device_name=device_name(device))
    oddities = require_sound(brought, dataset.test, dataset.class_count, device)
    for warning in (*brought.warnings, *oddities):
        ledger.warn(warning)
    clean = measure(brought.model, spec, dataset, ledger, device)
    if clean is None:
        return None
    sample_count = spec.training_sample_count
    return brought.model, ModelRecord(
        weights_digest=brought.digest,
        training_seconds=spec.training_seconds,
        training_sample_count=sample_count,
        # Without a defence every sample of every epoch takes a forward and a backward evaluation.
        training_evaluation_count=2 * spec.epoch_count * sample_count,
        epoch_count=spec.epoch_count,
        clean_accuracy=clean.accuracy,
        test_sample_count=len(dataset.test),
        parameter_count=models.parameter_count(brought.model),
        class_count=dataset.class_count,
        # Where it was trained nobody has said.
        training_device_name="",
        attack_device_name=device_name(device),
        training_cost_known=spec.training_seconds > 0 and sample_count > 0,
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
