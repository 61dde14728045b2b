"""Running one attack job from its specification to its last outcome."""

from __future__ import annotations

from pathlib import Path

import torch

from attack_service import datasets, models
from attack_service.attacking import attack
from attack_service.checkpoints import Store
from attack_service.datasets import balanced_indices
from attack_service.devices import choose_device, device_name, exact_arithmetic
from attack_service.errors import MemoryExhausted
from attack_service.evaluating import barely_trained, require_same_accuracy, warm_up
from attack_service.jobs import AttackJob, AttackSpec, Ledger, Phase, Progress, State
from attack_service.preparing import load_or_train, measure


def run_attack(job: AttackJob, ledger: Ledger, *, store_root: Path, data_root: Path, device: str) -> State:
    """Load or train the model, measure it, attack every sample that is not recorded yet.

    The job's specification must have been resolved (`catalog.resolve`). `device` is `auto`, `cpu` or `cuda`. Returns
    `State.SUCCEEDED`, or `State.CANCELED` once every sample under attack has been recorded as a survivor of its last
    check. Raises the errors of `attack_service.errors`.
    """
    where = choose_device(device)
    try:
        with exact_arithmetic():
            return _run(job.spec, ledger, Store(store_root), data_root, where)
    except (MemoryError, RuntimeError) as error:
        # On a CPU, torch says so in words only.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise MemoryExhausted(
            f"{device_name(where)} ran out of memory with batches of {job.spec.batch_size} samples of "
            f"{job.spec.image_size} x {job.spec.image_size}; pass a smaller --batch-size, --image-size or --model"
        ) from error


def _run(spec: AttackSpec, ledger: Ledger, store: Store, data_root: Path, device: torch.device) -> State:
    ledger.progress(Progress(Phase.LOADING))
    dataset = datasets.load(spec.dataset, image_size=spec.image_size, data_root=data_root)
    indices = balanced_indices(dataset.test.labels, spec.sample_count)
    prepared = load_or_train(spec, dataset, ledger, store, device)
    if prepared is None:
        return State.CANCELED
    classifier, record = prepared

    model = models.freeze(classifier, device)
    warm_up(model, dataset.test.images(indices[: spec.batch_size]).to(device))
    clean = measure(model, spec, dataset, ledger, device)
    if clean is None:
        return State.CANCELED
    require_same_accuracy(clean, record.clean_accuracy)
    warning = barely_trained(record.clean_accuracy, dataset.class_count)
    if warning is not None:
        ledger.warn(warning)
    ledger.model_ready(record, dataset.test.digest())
    return attack(spec, dataset, indices, model, clean, ledger, device)
