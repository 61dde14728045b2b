"""How fast is projected gradient descent here, beside the toolbox and beside what cannot be avoided?

    python benchmarks/attack_speed.py [--device cpu|cuda] [--model resnet18] [--samples 32] [--iterations 10]

Trains a small network on digits for an epoch, then times three ways to attack the same samples, interleaved:

- floor: every step of every sample, one forward and one input-gradient backward evaluation, nothing else;
- native: our engine, which judges every step, keeps every sample's clocks, and drops samples that have failed;
- art: adversarial-robustness-toolbox's own loop on the same frozen model, without any watching, and on the model as it
  was trained (batch norms not folded, gradients of the weights computed), which is how it is used by itself.

Ratios are medians over repeats of one run; absolute times are this machine's at this moment. The script fails if the
toolbox fools a sample that the native engine does not.
"""

from __future__ import annotations

import os

# Before torch is imported: OpenMP threads that spin while they wait make busy cores ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attack_service import datasets, models
from attack_service.attacks.pgd import pgd
from attack_service.clocks import DeviceClock
from attack_service.devices import choose_device, device_name
from attack_service.jobs import MemoryLedger
from attack_service.outcomes import Verdict
from attack_service.training import Recipe, train
from attack_service.watching import Journal, Samples, Watch, follow

EPSILON = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = choose_device(options.device)
    torch.backends.cudnn.allow_tf32 = False
    step_size = EPSILON / (0.8 * options.iterations)

    dataset = datasets.load("digits", image_size=32, data_root=Path())
    torch.manual_seed(0)
    trained = models.build(models.Architecture(options.model, "imagenet", 1, 10))
    train(trained, dataset.train, recipe=Recipe(), epoch_count=1, seed=0, device=device)
    model = models.freeze(trained, device)
    indices = datasets.balanced_indices(dataset.test.labels, len(dataset.test))
    images, labels = dataset.test.images(indices).to(device), dataset.test.labels[indices].to(device)
    with torch.no_grad():
        correct = model(images).argmax(dim=1) == labels
    images, labels = images[correct][: options.samples], labels[correct][: options.samples]

    def floor() -> Tensor | None:
        for x, y in zip(images.split(options.batch), labels.split(options.batch), strict=True):
            for _ in range(options.iterations):
                leaf = x.detach().requires_grad_(True)
                torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        return None

    def native() -> Tensor:
        ledger = MemoryLedger()
        journal = Journal(
            ledger,
            total_count=len(images),
            recorded=(),
            seconds_per_query=0.0,
            check_maximum=options.iterations,
        )
        for rows in torch.arange(len(images)).split(options.batch):
            x, y = images[rows.to(device)], labels[rows.to(device)]
            samples = Samples(rows, x.cpu(), y.cpu(), y.cpu(), torch.zeros(len(rows)))
            watch = Watch(samples, DeviceClock(device), journal)
            follow(
                pgd(
                    model,
                    x,
                    y,
                    epsilon=EPSILON,
                    step_size=step_size,
                    iteration_count=options.iterations,
                    norm="inf",
                ),
                watch,
            )
            watch.finish()
        journal.record(now=True)
        failed = torch.zeros(len(images), dtype=torch.bool)
        for outcome in ledger.outcomes:
            failed[outcome.sample_index] = outcome.verdict is Verdict.FAILED
        return failed

    def art(attacked: nn.Module) -> Callable[[], Tensor]:
        from art.attacks.evasion import ProjectedGradientDescentPyTorch

        from attack_service.attacks.art import wrap

        estimator = wrap(attacked, (1, 32, 32), 10, device)
        attack = ProjectedGradientDescentPyTorch(
            estimator,
            eps=EPSILON,
            eps_step=step_size,
            max_iter=options.iterations,
            batch_size=options.batch,
            verbose=False,
        )
        one_hot = F.one_hot(labels, 10).float().cpu().numpy()

        def run() -> Tensor:
            adversarial = attack.generate(images.cpu().numpy(), one_hot)
            with torch.no_grad():
                return (model(torch.from_numpy(adversarial).to(device)).argmax(dim=1) != labels).cpu()

        return run

    ways: dict[str, Callable[[], Tensor | None]] = {
        "floor": floor,
        "native": native,
        "art, frozen model": art(model),
        "art, model as trained": art(trained.eval()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    clock = DeviceClock(device)
    failed: dict[str, Tensor | None] = {name: way() for name, way in ways.items()}  # the warm-up
    for _ in range(options.repeats):
        for name, way in ways.items():
            clock.restart()
            way()
            seconds[name].append(clock.lap())

    print(f"{options.model}, {len(images)} digits, {options.iterations} steps, batches of {options.batch}, ", end="")
    print(f"torch {torch.__version__}, {device_name(device)}")
    medians = {name: statistics.median(laps) for name, laps in seconds.items()}
    for name, median in medians.items():
        found = failed[name]
        fooled = "" if found is None else f"   {int(found.sum())} failed"
        spread = f"{min(seconds[name]):.3f}-{max(seconds[name]):.3f}"
        print(f"{name:22} {median:8.3f} s ({spread})   {median / medians['floor']:5.2f} x the floor{fooled}")
    assert failed["native"] is not None
    assert failed["art, frozen model"] is not None
    # An iterate that fools the model may step back over the boundary: the toolbox, which looks at its last iterate
    # only, then misses a failure that the watch has seen.
    missed = failed["art, frozen model"] & ~failed["native"]
    if bool(missed.any()):
        raise SystemExit(f"art fooled samples that native did not: {missed.nonzero().flatten().tolist()}")
    print(f"art / native: {medians['art, frozen model'] / medians['native']:.2f}, ", end="")
    print(f"as trained: {medians['art, model as trained'] / medians['native']:.2f}")


if __name__ == "__main__":
    main()
