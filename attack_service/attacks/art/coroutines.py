"""Running code that asks whenever it likes, from however deep within itself, so that it can be left there.

Each sample has a coroutine and surroundings of its own: the random numbers and switches that are global to a process,
which library code reads and writes. They are exchanged whenever a coroutine is entered or left, so that neither the
other samples nor the rest of the process see what it does to them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from greenlet import GreenletExit, getcurrent, greenlet

from attack_service.attacks.querying import Answer, Question

# How often code is asked to end that will not.
_PATIENCE = 10


class Coroutine(greenlet):  # type: ignore[misc]  # greenlet has no types
    """Work on one sample, begun at the first `resume`; within it, `ask` leaves it with a question."""

    def __init__(self, work: Callable[[], None], *, seed: int, sample_index: int) -> None:
        super().__init__(work)
        self._surroundings = _seeded(seed, sample_index)

    def resume(self, answer: Answer | None) -> Question | None:
        """Go on, with the answer to the last question; the next question, or None if the work is done.

        Raises what the work raises.
        """
        self.parent = getcurrent()
        with self._entered():
            asked = self.switch(answer) if self else self.switch()
        return None if self.dead else asked

    def end(self) -> None:
        """Leave the work for good; what it would do on its way out, it does."""
        for _ in range(_PATIENCE):
            if not self or self.dead:
                return
            self.parent = getcurrent()
            with self._entered():
                self.throw(GreenletExit)
        raise RuntimeError("the attack does not end when it is told to")

    @contextmanager
    def _entered(self) -> Iterator[None]:
        outside = _Surroundings()
        self._surroundings.restore()
        try:
            yield
        finally:
            self._surroundings = _Surroundings()
            outside.restore()


def ask(question: Question) -> Answer:
    """Leave the coroutine that is running with a question; returns when it is resumed with the answer."""
    inside = getcurrent()
    if not isinstance(inside, Coroutine) or inside.parent is None:
        raise RuntimeError("only what runs in a coroutine can ask")
    answer: Answer = inside.parent.switch(question)
    return answer


class _Surroundings:
    """A copy of what is global: numpy's, Python's and torch's random numbers, and whether torch records gradients."""

    def __init__(self) -> None:
        self.numpy: Any = np.random.get_state(legacy=False)
        self.python: Any = random.getstate()
        self.torch = torch.get_rng_state()
        self.generator: type = np.random.RandomState
        self.differentiates = torch.is_grad_enabled()

    def restore(self) -> None:
        np.random.set_state(self.numpy)
        random.setstate(self.python)
        torch.set_rng_state(self.torch)
        np.random.RandomState = self.generator  # type: ignore[assignment, misc]
        torch.set_grad_enabled(self.differentiates)


class _AnyGenerator(type):
    """Takes every generator of numpy's old kind for an instance, since it stands in the place of their class."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _RandomState)


_RandomState = np.random.RandomState


class _SeededGenerator(_RandomState, metaclass=_AnyGenerator):
    """numpy's old generator, seeded from the sample's random numbers instead of from the machine's noise."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(np.random.randint(2**32, size=8, dtype=np.uint32) if seed is None else seed)


def _seeded(seed: int, sample_index: int) -> _Surroundings:
    """The surroundings that a sample finds at its start, from the seed and its index alone."""
    digest = hashlib.sha256(f"art:{seed}:{sample_index}".encode()).digest()
    surroundings = _Surroundings()
    surroundings.numpy = _RandomState(np.frombuffer(digest, dtype="<u4")).get_state(legacy=False)
    surroundings.python = random.Random(digest).getstate()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    surroundings.torch = generator.get_state()
    surroundings.generator = _SeededGenerator
    surroundings.differentiates = True
    return surroundings
