"""Running one attack job from its specification to its last outcome."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from attack_service import datasets, models
from attack_service.attacking import attack, require_engine
from attack_service.catalog import attack_entry
from attack_service.checkpoints import Store
from attack_service.datasets import Dataset, balanced_indices, shard_positions
from attack_service.defences import Target, defend
from attack_service.devices import (
    choose_device,
    device_identity,
    device_name,
    disturbance,
    exact_arithmetic,
    keep_memory,
)
from attack_service.errors import DatasetUnavailable, MemoryExhausted
from attack_service.evaluating import (
    CleanEvaluation,
    barely_answering,
    barely_trained,
    require_plausible_accuracy,
    require_prepared_predictions,
    require_same_accuracy,
)
from attack_service.exclusivity import read, violations
from attack_service.handles import Handle, is_out_of_memory
from attack_service.jobs import AttackJob, AttackSpec, Ledger, ModelRecord, Phase, Preparation, Progress, State
from attack_service.preparing import load_or_train, measure


def run_attack(
    job: AttackJob, ledger: Ledger, *, store_root: Path, data_root: Path, device: str, shard_index: int = 0
) -> State:
    """Load or train the model, measure it, attack every sample of a shard that is not recorded yet.

    The first run of a job prepares it: trains the model if the store has none, and measures it on the whole test
    split. Every other loads that model and measures it on the shard's own samples. With the attack `none` that is all.

    The job's specification must have been resolved (`catalog.resolve`). `device` is `auto`, `cpu` or `cuda`. Returns
    `State.SUCCEEDED`, or `State.CANCELED` once every sample under attack has been recorded as a survivor of its last
    check. Raises the errors of `attack_service.errors`.
    """
    where = choose_device(device)
    keep_memory()
    try:
        with exact_arithmetic():
            return _run(job.spec, shard_index, ledger, Store(store_root), data_root, where)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryExhausted(
            f"{device_name(where)} ran out of memory with batches of {job.spec.batch_size} samples of "
            f"{job.spec.image_size} x {job.spec.image_size}; pass a smaller --batch-size, --image-size or --model"
        ) from error


def _run(
    spec: AttackSpec, shard_index: int, ledger: Ledger, store: Store, data_root: Path, device: torch.device
) -> State:
    ledger.computes_on(device_identity(device))
    ledger.progress(Progress(Phase.LOADING))
    require_engine(spec)
    dataset = datasets.load(spec.dataset, image_size=spec.image_size, data_root=data_root)
    indices = balanced_indices(dataset.test.labels, spec.sample_count)
    positions = shard_positions(dataset.test.labels[indices], shard_index, spec.shard_count or 1)
    own = indices[positions]
    preparation = ledger.preparation()
    if preparation is not None and dataset.test.digest() != preparation.dataset_digest:
        raise DatasetUnavailable(
            f"the test split of {spec.dataset} that this worker reads is not the one that the job was prepared with; "
            "give every worker the same --data-root"
        )
    prepared = load_or_train(
        spec, dataset, ledger, store, device, prepared=None if preparation is None else preparation.record
    )
    if prepared is None:
        return State.CANCELED
    classifier, record = prepared

    model = models.freeze(classifier, device)
    target = _defended(model, spec)
    if spec.attack == "none":
        # The job was for the model and its record.
        if preparation is None and _made_ready(model, target, spec, record, dataset, indices, ledger, device) is None:
            return State.CANCELED
        return State.SUCCEEDED
    handle = _handle(target, spec, dataset, own, ledger, device)
    if preparation is None:
        clean = _made_ready(model, target, spec, record, dataset, indices, ledger, device)
    else:
        clean = measure(target, spec, dataset, ledger, device, indices=own)
    if clean is None:
        return State.CANCELED
    if preparation is not None:
        require_prepared_predictions(clean.predictions[own], torch.tensor(preparation.clean_predictions)[positions])
        if record.attack_device_name != preparation.record.attack_device_name:
            ledger.timing_violation(
                f"samples were attacked on {preparation.record.attack_device_name} and on {record.attack_device_name}, "
                "whose seconds cannot be compared"
            )
    before = read(device)
    state = attack(spec, dataset, own, handle, target, clean, ledger, device)
    disturbed = disturbance(device, ledger.neighbour_count())
    for violation in [disturbed] if disturbed else violations(before, read(device), device_name(device)):
        ledger.timing_violation(violation)
    return state


def _defended(model: nn.Module, spec: AttackSpec, seed: int | None = None) -> Target:
    """The model behind the job's defence, whose draws come from the job's seed or another."""
    seed = spec.seed if seed is None else seed
    access = attack_entry(spec.attack).access
    return defend(model, spec.defence, spec.defence_parameters, seed=seed, access=access)


def _made_ready(
    model: nn.Module,
    target: Target,
    spec: AttackSpec,
    record: ModelRecord,
    dataset: Dataset,
    indices: Tensor,
    ledger: Ledger,
    device: torch.device,
) -> CleanEvaluation | None:
    """Check the model that the job will attack, measure what its defence makes of it, and let the other shards begin.

    The evaluation of the target on the whole test split; None if the job was canceled meanwhile.
    """
    clean = measure(model, spec, dataset, ledger, device)
    if clean is None:
        return None
    require_same_accuracy(clean, record.clean_accuracy)
    warning = barely_trained(record.clean_accuracy, dataset.class_count)
    if type(target) is not Target:
        behind = measure(target, spec, dataset, ledger, device)
        if behind is None:
            return None
        clean = behind
        warning = warning or barely_answering(clean, dataset.class_count)
    if target.randomized:
        repeated = measure(_defended(model, spec, (spec.seed + 1) % 2**64), spec, dataset, ledger, device)
        if repeated is None:
            return None
        require_plausible_accuracy(clean, repeated)
    if warning is not None:
        ledger.warn(warning)
    record = replace(
        record,
        defended_accuracy=clean.accuracy,
        clean_rejection_share=clean.rejection_share,
        randomized=target.randomized,
    )
    ledger.model_ready(Preparation(record, dataset.test.digest(), tuple(clean.predictions[indices].tolist())))
    return clean


def _handle(
    model: nn.Module, spec: AttackSpec, dataset: Dataset, indices: Tensor, ledger: Ledger, device: torch.device
) -> Handle:
    """The handle to ask the model by, warm: no sample is charged for starting the device's libraries."""

    def narrower(width: int) -> None:
        ledger.warn(
            f"the device ran out of memory, so at most {width} samples were attacked at once instead of "
            f"{spec.batch_size}; their seconds are those of smaller batches"
        )

    handle = Handle(model, spec.batch_size, narrower)
    first = indices[: spec.batch_size]
    handle.probe(dataset.test.images(first).to(device), dataset.test.labels[first].to(device))
    return handle
