"""Attacking every sample of a job that is not recorded yet."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attack_service import catalog
from attack_service.attacks.building import build
from attack_service.attacks.lockstep import LockstepAttack
from attack_service.attacks.querying import QueryAttack
from attack_service.attacks.square import Square
from attack_service.clocks import DeviceClock
from attack_service.datasets import Dataset
from attack_service.defences import Target
from attack_service.driving import drive_lockstep, drive_queries
from attack_service.errors import InvalidSpecification
from attack_service.evaluating import CleanEvaluation, require_harmless_probe, require_same_predictions
from attack_service.handles import Handle
from attack_service.integrity import Verifier, answers_by_chance, masked_gradients, vanishing_gradients
from attack_service.jobs import AttackSpec, Ledger, State
from attack_service.judging import Judge
from attack_service.watching import Journal, Samples, Watch, misclassified

_PROBE_COUNT = 16
# An attack of fewer steps is expected to leave samples standing.
_FEW_STEPS = 5
# A few questions about a few survivors cost little, and find what hides its gradients.
_SUSPECT_COUNT, _SUSPICION_QUERY_COUNT = 16, 12
# The share of a GPU's free memory that the images may take; the rest is for passes through the model.
_IMAGE_SHARE = 0.25


def attack(
    spec: AttackSpec,
    dataset: Dataset,
    indices: Tensor,
    handle: Handle,
    target: Target,
    clean: CleanEvaluation,
    ledger: Ledger,
    device: torch.device,
) -> State:
    """Attack the samples at these positions of the test split; those recorded by earlier attempts are left out.

    `handle` asks the `target`, and `clean` is its evaluation on the whole split. Returns `State.SUCCEEDED`, or
    `State.CANCELED` once every sample under attack is recorded.
    """
    recorded = ledger.recorded_verdicts()
    journal = Journal(
        ledger,
        total_count=len(indices),
        recorded=recorded.values(),
        seconds_per_query=clean.seconds_per_query,
        check_maximum=catalog.count_maxima(spec)[0] // (spec.sample_count * target.repeat_count),
    )
    left = torch.tensor([index for index in indices.tolist() if index not in recorded], dtype=torch.int64)
    samples = Samples(
        left, dataset.test.labels[left], clean.predictions[left], clean.seconds[left], _reader(dataset, left, device)
    )
    answered_wrong = clean.misclassified(dataset.test.labels)[left]
    wrong, attackable = samples.take(answered_wrong), samples.take(~answered_wrong)
    for row in range(len(wrong)):
        journal.add(misclassified(wrong, row))
    journal.record(now=True)
    canceled = journal.canceled()
    if len(attackable) and not canceled:
        canceled = _attack(spec, dataset, attackable, handle, target, journal, ledger, device)
    journal.record(now=True)
    return State.CANCELED if canceled else State.SUCCEEDED


def _attack(
    spec: AttackSpec,
    dataset: Dataset,
    samples: Samples,
    handle: Handle,
    target: Target,
    journal: Journal,
    ledger: Ledger,
    device: torch.device,
) -> bool:
    """Attack samples that are at risk; whether the job was canceled meanwhile."""
    first = samples.take(torch.arange(min(spec.batch_size, len(samples))))
    images, labels = first.images(first.indices).to(device), first.labels.to(device)
    require_sound_start(target, images[:_PROBE_COUNT], labels[:_PROBE_COUNT])
    judge = Judge(_radius(spec, dataset.channel_count), spec.norm, target.abstains)
    verifier = Verifier(handle, judge)
    watch, clock = Watch(samples, journal, target.repeat_count, verifier.add), DeviceClock(device)
    flags = [answers_by_chance(handle, images)]
    if catalog.attack_entry(spec.attack).access == "gradients":
        flags.append(vanishing_gradients(handle, images, labels))
    attacking = (
        _toolbox(spec, dataset, handle, images, first) if spec.engine == "art" else build(spec, dataset.class_count)
    )
    if isinstance(attacking, LockstepAttack):
        drive_lockstep(attacking, samples, handle, judge, watch, clock, device)
    else:
        drive_queries(attacking, samples, handle, judge, watch, clock, device)
        flags.append(attacking.complaint())
    flags.append(verifier.finish())
    if not watch.canceled:
        flags.append(_masking(spec, samples, watch, handle, judge, device))
    for flag in flags:
        if flag is not None:
            ledger.warn(flag)
    return watch.canceled


def _radius(spec: AttackSpec, channel_count: int) -> float:
    """How far from the clean image a failure may lie, in the specification's norm; infinite without a limit."""
    parameters = spec.attack_parameters
    # These two never leave their limits; the judge sees to it that they have not.
    if "pixel_count" in parameters:
        return parameters["pixel_count"] * channel_count
    if "threshold" in parameters:
        return parameters["threshold"] / 255
    return parameters.get("epsilon", math.inf)


def _masking(
    spec: AttackSpec, samples: Samples, watch: Watch, handle: Handle, judge: Judge, device: torch.device
) -> str | None:
    """A sentence if survivors of an attack that follows gradients step by step fall to a few questions without any."""
    entry = catalog.attack_entry(spec.attack)
    if entry.access != "gradients" or spec.norm not in catalog.ATTACKS["square"].norms or math.isinf(judge.epsilon):
        return None
    if entry.maxima(spec.attack_parameters)[1] < _FEW_STEPS:
        return None
    few = samples.take(torch.tensor(watch.survivors[:_SUSPECT_COUNT], dtype=torch.int64))
    square = Square(judge.epsilon, spec.norm, _SUSPICION_QUERY_COUNT, initial_share=0.3, seed=spec.seed)
    return masked_gradients(square, few, handle, judge, spec.attack, device)


def _reader(dataset: Dataset, indices: Tensor, device: torch.device) -> Callable[[Tensor], Tensor]:
    """What reads images by their positions in the test split; on a GPU all of them lie there already, if they fit."""
    if device.type != "cuda" or not len(indices):
        return dataset.test.images
    size = dataset.test.images(indices[:1]).nbytes * len(indices)
    if size > _IMAGE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return dataset.test.images
    images = torch.cat([dataset.test.images(part).to(device) for part in indices.split(1024)])
    places = torch.full((len(dataset.test),), -1)
    places[indices] = torch.arange(len(indices))
    return lambda wanted: images[places[wanted].to(device)]


def require_sound_start(target: Target, images: Tensor, labels: Tensor) -> None:
    """Raise `IntegrityViolated` if almost nothing fools the target on images (n, channels, height, width)."""
    # Where the answers are drawn anew, or values rounded, almost nothing may well make the difference.
    probed = target.model if target.randomized or target.rounds else target
    with torch.no_grad():
        # Of a rejected sample the model may make another class than the true one.
        right = probed(images).argmax(dim=1) == labels
    if bool(right.any()):
        require_harmless_probe(probed, images[right], labels[right])


def require_engine(spec: AttackSpec) -> None:
    """Raise `InvalidSpecification` if this worker cannot run the attack of a resolved specification.

    Asked before anything is trained: what the toolbox has, and what its attacks take, only it knows.
    """
    if spec.engine == "art":
        try:
            # The toolbox takes seconds to import, and a worker that never attacks with it need not have it.
            from attack_service.attacks.art.classes import recipe_of
        except ModuleNotFoundError as error:
            raise InvalidSpecification(
                "spec.engine",
                f"this worker lacks {error.name}, so it cannot attack with the engine art; "
                "install adversarial-robustness-toolbox there, or use native",
            ) from error
        recipe_of(spec)


def _toolbox(spec: AttackSpec, dataset: Dataset, handle: Handle, images: Tensor, samples: Samples) -> QueryAttack:
    """The toolbox's attack; `images` are those of the samples, a batch of them, on the device.

    Raises `IntegrityViolated` unless the toolbox's classifier sees the predictions that the samples were chosen by.
    """
    from attack_service.attacks.art.attack import ToolboxAttack, seen_logits
    from attack_service.attacks.art.classes import recipe_of

    recipe = recipe_of(spec)
    logits = seen_logits(images, lambda asked: handle.evaluate(asked).logits, dataset.class_count)
    require_same_predictions(logits.argmax(dim=1), samples.clean_predictions)
    return ToolboxAttack(recipe, dataset.class_count, spec.seed)
