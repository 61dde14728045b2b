"""The handle asks in passes that do not change the answer, and in narrower ones when there is no memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from attack_service.attacks.losses import doubt
from attack_service.handles import Handle, is_out_of_memory


class Small(nn.Module):
    """A little of all that rounds: a convolution, a mean, a matrix product. It has memory for `capacity` rows."""

    def __init__(self, capacity: int = 10**6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
        )
        self.requires_grad_(False)
        self.capacity = capacity
        self.widths: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.capacity:
            raise torch.OutOfMemoryError("no memory for so many rows")
        self.widths.append(len(images))
        answer: Tensor = self.layers(images)
        return answer


@pytest.fixture
def images() -> Tensor:
    return torch.rand(37, 1, 12, 12, generator=torch.Generator().manual_seed(1))


LABELS = torch.arange(37) % 5


def gradients_of_doubt(logits: Tensor, rows: slice) -> Tensor:
    return doubt(logits, LABELS[rows])


@pytest.mark.parametrize("rows", [slice(0, 1), slice(3, 5), slice(10, 19), slice(0, 16), slice(0, 37)])
def test_a_rows_answer_and_gradient_are_the_same_bits_beside_any_others(images: Tensor, rows: slice) -> None:
    handle = Handle(Small(), 16)
    handle.probe(images, LABELS)
    whole = handle.evaluate(images, gradients_of_doubt)
    part = handle.evaluate(images[rows], lambda logits, part: doubt(logits, LABELS[rows][part]))
    assert torch.equal(part.logits, whole.logits[rows])
    assert part.gradients is not None
    assert whole.gradients is not None
    assert torch.equal(part.gradients, whole.gradients[rows])
    assert torch.equal(handle.evaluate(images[rows]).logits, handle.evaluate(images).logits[rows])


def test_several_gradients_a_row_are_those_of_its_numbers_one_by_one(images: Tensor) -> None:
    handle = Handle(Small(), 16)
    both = handle.evaluate(images, lambda logits, rows: logits[:, 1:3]).gradients
    assert both is not None
    assert both.shape == (37, 2, 1, 12, 12)
    for column in (0, 1):
        alone = handle.evaluate(images, lambda logits, rows, column=column: logits[:, 1 + column]).gradients
        assert alone is not None
        assert torch.allclose(both[:, column], alone, atol=1e-7)


def test_an_unprobed_handle_and_one_of_a_model_that_rounds_by_the_batch_make_full_passes_alone() -> None:
    """Where narrower passes would change the bits, rows are filled up to the full width."""

    class ByTheBatch(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :3] * (1 + 1e-6 * len(images))

    images = torch.rand(16, 1, 2, 2)
    handle = Handle(ByTheBatch(), 16)
    assert handle.padded(3) == 16
    handle.probe(images, torch.zeros(16, dtype=torch.int64))
    assert handle.padded(3) == 16
    probed = Handle(Small(), 16)
    probed.probe(torch.rand(16, 1, 12, 12), torch.zeros(16, dtype=torch.int64))
    assert [probed.padded(count) for count in (1, 8, 9, 13, 16)] == [8, 8, 12, 16, 16]


def test_a_gradient_that_is_no_number_is_no_slope() -> None:
    class Root(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images - images).sqrt().flatten(1)

    evaluation = Handle(Root(), 4).evaluate(torch.rand(2, 1, 1, 2), lambda logits, rows: logits[:, 0])
    assert evaluation.gradients is not None
    assert torch.equal(evaluation.gradients[:, :, :, 1], torch.zeros(2, 1, 1))
    assert bool(evaluation.gradients.isfinite().all())


def test_out_of_memory_the_same_rows_are_asked_again_in_narrower_passes(images: Tensor) -> None:
    narrower: list[int] = []
    model = Small(capacity=10)
    handle = Handle(model, 32, narrower.append)
    answer = handle.evaluate(images, gradients_of_doubt)
    whole = Handle(Small(), 64).evaluate(images, gradients_of_doubt)
    assert torch.allclose(answer.logits, whole.logits, atol=1e-6)
    assert answer.gradients is not None
    assert whole.gradients is not None
    assert torch.allclose(answer.gradients, whole.gradients, atol=1e-6)
    # From 32 over 16 to 8 at once, told once; and it stays there.
    assert narrower == [8]
    assert handle.width == 8
    assert set(model.widths) == {8}


def test_memory_may_run_out_while_the_handle_is_made_ready(images: Tensor) -> None:
    narrower: list[int] = []
    handle = Handle(Small(capacity=20), 32, narrower.append)
    handle.probe(images, LABELS)
    assert (handle.width, narrower) == (16, [16])


def test_other_errors_and_a_single_row_that_is_too_much_are_raised(images: Tensor) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Handle(Small(capacity=0), 8).evaluate(images)
    handle = Handle(Small(), 8)
    with pytest.raises(RuntimeError, match="expected input") as raised:
        handle.evaluate(torch.rand(2, 3, 12, 12))
    assert not is_out_of_memory(raised.value)
    assert handle.width == 8


PROGRAM = """
import resource
import torch
from torch import nn
from attack_service.handles import Handle

torch.set_num_threads(1)

class Wide(nn.Module):
    def forward(self, images):
        return (images.expand(-1, 64, -1, -1) + 1.0).sigmoid().mean(dim=(2, 3))

images = torch.rand(32, 1, 64, 64)
Handle(Wide(), 2).evaluate(images[:2], lambda logits, rows: logits[:, 0])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# 32 rows take 32 MiB a layer; there is room for a few of them.
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), resource.RLIM_INFINITY))
narrower = []
handle = Handle(Wide(), 32, narrower.append)
answer = handle.evaluate(images, lambda logits, rows: logits[:, 0])
assert answer.gradients.shape == images.shape
print(handle.width, len(narrower))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_machine_that_is_really_out_of_memory_is_asked_for_less() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    width, told = map(int, ran.stdout.split())
    assert 1 <= width < 32
    assert told >= 1
