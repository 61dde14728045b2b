"""Running one attack job from its specification to its last outcome."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from attack_service import datasets, models
from attack_service.attacks.fgm import fgm
from attack_service.attacks.iterates import Iterates
from attack_service.attacks.norms import random_points
from attack_service.attacks.pgd import pgd
from attack_service.checkpoints import Store, StoredModel
from attack_service.clocks import DeviceClock
from attack_service.datasets import Dataset, balanced_indices
from attack_service.errors import CheckpointInvalid, InvalidSpecification, MemoryExhausted
from attack_service.evaluating import (
    CleanEvaluation,
    barely_trained,
    evaluate,
    require_harmless_probe,
    require_same_accuracy,
    require_same_predictions,
    warm_up,
)
from attack_service.jobs import AttackJob, AttackSpec, Ledger, ModelRecord, Phase, Progress, State
from attack_service.training import Recipe, TrainingStep, train
from attack_service.watching import Journal, Samples, Watch, follow, misclassified

_PROBE_COUNT = 16


def run_attack(job: AttackJob, ledger: Ledger, *, store_root: Path, data_root: Path, device: str) -> State:
    """Load or train the model, measure it, attack every sample that is not recorded yet.

    The job's specification must have been resolved (`catalog.resolve`). `device` is `auto`, `cpu` or `cuda`. Returns
    `State.SUCCEEDED`, or `State.CANCELED` once every sample under attack has been recorded as a survivor of its last
    check. Raises the errors of `attack_service.errors`.
    """
    where = choose_device(device)
    try:
        with _exact_arithmetic():
            return _run(job.spec, ledger, Store(store_root), data_root, where)
    except (MemoryError, RuntimeError) as error:
        # On a CPU, torch says so in words only.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise MemoryExhausted(
            f"{device_name(where)} ran out of memory with batches of {job.spec.batch_size} samples of "
            f"{job.spec.image_size} x {job.spec.image_size}; pass a smaller --batch-size, --image-size or --model"
        ) from error


def choose_device(device: str) -> torch.device:
    """The device named `cpu` or `cuda`, or for `auto` the best there is."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidSpecification("device", "this machine has no CUDA device; start the worker with --device auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def device_name(device: torch.device) -> str:
    """What a person calls the device, threads included: times mean nothing without it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


@contextmanager
def _exact_arithmetic() -> Iterator[None]:
    """Keep float32 what it says: with tf32, which CUDA convolutions default to, other samples fail than on a CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _run(spec: AttackSpec, ledger: Ledger, store: Store, data_root: Path, device: torch.device) -> State:
    ledger.progress(Progress(Phase.LOADING))
    dataset = datasets.load(spec.dataset, image_size=spec.image_size, data_root=data_root)
    indices = balanced_indices(dataset.test.labels, spec.sample_count)
    prepared = _load_or_train(spec, dataset, ledger, store, device)
    if prepared is None:
        return State.CANCELED
    classifier, record = prepared

    model = models.freeze(classifier, device)
    warm_up(model, dataset.test.images(indices[: spec.batch_size]).to(device))
    clean = _evaluate(model, spec, dataset, ledger, device)
    if clean is None:
        return State.CANCELED
    require_same_accuracy(clean, record.clean_accuracy)
    warning = barely_trained(record.clean_accuracy, dataset.class_count)
    if warning is not None:
        ledger.warn(warning)
    ledger.model_ready(record, dataset.test.digest())
    return _attack(spec, dataset, indices, model, clean, ledger, device)


def _evaluate(
    model: nn.Module, spec: AttackSpec, dataset: Dataset, ledger: Ledger, device: torch.device
) -> CleanEvaluation | None:
    """Measure a model on the clean test split; None if the job was canceled meanwhile."""

    def report(done_count: int) -> None:
        ledger.progress(Progress(Phase.EVALUATING, done_count=done_count, total_count=len(dataset.test)))

    return evaluate(
        model,
        dataset.test,
        batch_size=spec.batch_size,
        device=device,
        report=report,
        canceled=ledger.cancel_requested,
    )


def _load_or_train(
    spec: AttackSpec, dataset: Dataset, ledger: Ledger, store: Store, device: torch.device
) -> tuple[nn.Module, ModelRecord] | None:
    """The trained model and its record; None if the job was canceled meanwhile."""
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
        ledger.warn(f"the stored model could not be used and was trained anew: {error}")
        loaded = None
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
        resumed=store.load_training(key),
        save=lambda state: store.save_training(key, state),
        report=report,
        canceled=ledger.cancel_requested,
    )
    if seconds is None:
        return None
    clean = _evaluate(classifier.eval(), spec, dataset, ledger, device)
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


def _attack(
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
