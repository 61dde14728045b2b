"""Timing ways to do one thing, interleaved, and finding out what each of them did."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from throughput.ground import classify

# A library's attack on a batch: images, labels -> adversarial images.
Attack = Callable[[Tensor, Tensor], Tensor]
# Does a repeat's work, by the repeat's number; returns how many times as much the work on all samples is.
Way = Callable[[int], float]
Piece = tuple[Tensor, Tensor]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Findings:
    """What a library's attack came to, by one judge for all. Every tensor has a value for each sample.

    `steps` are those of the first iterate that fooled the model, 0 for none; None where they cannot be told from
    outside. `l2` is the length of the change of the image that the attack returned. `rows` went forward through the
    model in all.
    """

    failed: Tensor
    l2: Tensor
    rows: int
    steps: Tensor | None = None

    def first(self, count: int) -> Findings:
        """Of the first samples alone; the rows are those of all."""
        steps = None if self.steps is None else self.steps[:count]
        return Findings(self.failed[:count], self.l2[:count], self.rows, steps)


@dataclass(frozen=True, slots=True)
class Laps:
    """Seconds of every repeat, by name, in the order in which they were run."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        """The median of the ratios of the repeats: what slows the machine down slows both of a repeat's laps."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[base], strict=True))

    def spread(self, name: str, base: str) -> tuple[float, float]:
        ratios = [a / b for a, b in zip(self.seconds[name], self.seconds[base], strict=True)]
        return min(ratios), max(ratios)


def divided(images: Tensor, labels: Tensor, size: int) -> list[Piece]:
    """Samples in pieces of so many."""
    return list(zip(images.split(size), labels.split(size), strict=True))


def whole(run: Callable[[], object]) -> Way:
    """A way that always works on all samples."""

    def way(repeat: int) -> float:
        run()
        return 1.0

    return way


def piecewise(run: Callable[[Tensor, Tensor], object], pieces: list[Piece], count: int) -> Way:
    """A way that works on each piece alone, whatever the others are: on `count` of them a repeat, each time others."""

    def way(repeat: int) -> float:
        chosen = [pieces[(repeat * count + place) % len(pieces)] for place in range(count)]
        for images, labels in chosen:
            run(images, labels)
        return sum(len(labels) for _, labels in pieces) / sum(len(labels) for _, labels in chosen)

    return way


def interleave(ways: Mapping[str, Way], repeats: int, device: torch.device) -> Laps:
    """Run every way once a repeat, each repeat beginning with the next of them. The caller has warmed them up."""
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            share, lap = timed(partial(ways[name], repeat), device)
            seconds[name].append(lap * share)
    return Laps(seconds)


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What some work returns, and the seconds that it took."""
    begin = _now(device)
    result = work()
    return result, _now(device) - begin


def _now(device: torch.device) -> float:
    """CPU seconds of all threads of this process; on a GPU wall seconds, once it has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


class Rows:
    """Counts the rows that go forward through a model while it is entered, and remembers what the model said."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.count = 0
        self.said: list[Tensor] = []

    def __enter__(self) -> Rows:
        self._hook = self._model.register_forward_hook(self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def begin(self) -> None:
        """Forget what was said."""
        self.said = []

    def _hear(self, module: nn.Module, arguments: tuple[Tensor, ...], logits: Tensor) -> None:
        self.count += len(logits)
        self.said.append(logits.detach().argmax(dim=1))


def watch(
    attack: Attack,
    model: nn.Module,
    pieces: list[Piece],
    *,
    norm: str,
    epsilon: float,
    step_count: int | None,
) -> Findings:
    """Attack once, and judge what came out: failed is what fools the model from within `epsilon`.

    With `step_count`, the attack evaluates a clean piece first and then the iterate of every step, each once, and
    the step of a sample's failure is told from what the model said; some libraries leave out the last iterate, which
    is judged here.
    """
    adversarial, steps = [], []
    with Rows(model) as rows:
        for x, y in pieces:
            rows.begin()
            adversarial.append(attack(x, y).detach())
            if step_count is not None:
                fooled = [said != y for said in rows.said[1 : step_count + 1]]
                fooled += [classify(model, adversarial[-1]) != y] * (step_count - len(fooled))
                table = torch.stack(fooled)
                steps.append(torch.where(table.any(dim=0), table.int().argmax(dim=0) + 1, 0))
        row_count = rows.count
    found = torch.cat(adversarial)
    images, labels = torch.cat([x for x, _ in pieces]), torch.cat([y for _, y in pieces])
    change = (found - images).flatten(1)
    lengths = {"2": change.norm(dim=1), "inf": change.abs().amax(dim=1), "0": (change.abs() > 1e-6).sum(dim=1)}
    near = lengths[norm] <= epsilon * (1 + 1e-5) + 1e-6
    failed = (torch.cat(steps) > 0) if steps else (classify(model, found) != labels) & near
    return Findings(
        failed=failed.cpu(),
        l2=lengths["2"].cpu(),
        rows=row_count,
        steps=torch.cat(steps).cpu() if steps else None,
    )
