"""Attacking every sample of a job that is not recorded yet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attack_service.attacks.fgm import fgm
from attack_service.attacks.iterates import Iterates
from attack_service.attacks.norms import random_points
from attack_service.attacks.pgd import pgd
from attack_service.clocks import DeviceClock
from attack_service.datasets import Dataset
from attack_service.errors import InvalidSpecification
from attack_service.evaluating import CleanEvaluation, require_harmless_probe, require_same_predictions
from attack_service.jobs import AttackSpec, Ledger, State
from attack_service.watching import Journal, Samples, Watch, follow, misclassified

_PROBE_COUNT = 16


def attack(
    spec: AttackSpec,
    dataset: Dataset,
    indices: Tensor,
    model: nn.Module,
    clean: CleanEvaluation,
    ledger: Ledger,
    device: torch.device,
) -> State:
    recorded = ledger.recorded_verdicts()
    journal = Journal(
        ledger,
        total_count=len(indices),
        recorded=recorded.values(),
        seconds_per_query=clean.seconds_per_query,
        check_maximum=int(spec.attack_parameters.get("max_iterations", 1)),
    )
    left = torch.tensor([index for index in indices.tolist() if index not in recorded], dtype=torch.int64)
    correct = clean.predictions[left] == dataset.test.labels[left]
    wrong = _samples(dataset, clean, left[~correct])
    for row in range(len(wrong)):
        journal.add(misclassified(wrong, row))
    attackable = left[correct]
    if len(attackable):
        probe = _samples(dataset, clean, attackable[:_PROBE_COUNT])
        require_harmless_probe(model, probe.images.to(device), probe.labels.to(device))
        if spec.engine == "art":
            _require_art_sees(model, _samples(dataset, clean, attackable[: spec.batch_size]), dataset, device)
    journal.record(now=True)
    canceled = journal.canceled()
    for batch in attackable.split(spec.batch_size):
        if canceled:
            break
        samples = _samples(dataset, clean, batch)
        watch = Watch(samples, DeviceClock(device), journal)
        _attack_batch(spec, dataset, model, samples, watch, device)
        watch.finish()
        journal.record()
        canceled = watch.canceled
    journal.record(now=True)
    return State.CANCELED if canceled else State.SUCCEEDED


def _samples(dataset: Dataset, clean: CleanEvaluation, indices: Tensor) -> Samples:
    return Samples(
        indices=indices,
        images=dataset.test.images(indices),
        labels=dataset.test.labels[indices],
        clean_predictions=clean.predictions[indices],
        clean_seconds=clean.seconds[indices],
    )


def _attack_batch(
    spec: AttackSpec, dataset: Dataset, model: nn.Module, samples: Samples, watch: Watch, device: torch.device
) -> None:
    images, labels = samples.images.to(device), samples.labels.to(device)
    if spec.engine == "native":
        follow(_iterates(spec, model, images, labels, samples.indices.tolist()), watch)
        return
    # ART takes seconds to import, and a worker that never attacks with it need not have it.
    from attack_service.attacks.art import attack_with_art

    attack_with_art(
        model,
        images,
        labels,
        watch.check,
        attack=spec.attack,
        parameters=spec.attack_parameters,
        norm=spec.norm,
        class_count=dataset.class_count,
    )


def _iterates(
    spec: AttackSpec, model: nn.Module, images: Tensor, labels: Tensor, sample_indices: list[int]
) -> Iterates:
    parameters = spec.attack_parameters
    epsilon = parameters["epsilon"]
    if spec.attack == "fgm":
        return fgm(model, images, labels, epsilon=epsilon, norm=spec.norm)
    start = None
    if parameters["random_start"]:
        start = random_points(images, epsilon, spec.norm, seed=spec.seed, sample_indices=sample_indices)
    return pgd(
        model,
        images,
        labels,
        epsilon=epsilon,
        step_size=parameters["step_size"],
        iteration_count=int(parameters["max_iterations"]),
        norm=spec.norm,
        start=start,
    )


def _require_art_sees(model: nn.Module, samples: Samples, dataset: Dataset, device: torch.device) -> None:
    try:
        from attack_service.attacks.art import wrap

        estimator = wrap(model, tuple(samples.images.shape[1:]), dataset.class_count, device)
    except ModuleNotFoundError as error:
        raise InvalidSpecification(
            "spec.engine",
            f"this worker lacks {error.name}, so it cannot attack with the engine art; "
            "install adversarial-robustness-toolbox there, or use native",
        ) from error
    logits = torch.from_numpy(estimator.predict(samples.images.numpy(), batch_size=len(samples)))
    require_same_predictions(logits.argmax(dim=1), samples.clean_predictions)
