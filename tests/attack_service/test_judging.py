"""A failure is another class, without an abstention, within the budget; and nobody's neighbours matter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attack_service.judging import Judge

ORIGINALS = torch.full((1, 1, 1, 4), 0.5)


def changed(*values: float) -> Tensor:
    return ORIGINALS + torch.tensor(values).reshape(1, 1, 1, 4)


def fooled(judge: Judge, inputs: Tensor, logits: Tensor, label: int = 0) -> bool:
    judgement = judge.judge(inputs, ORIGINALS, torch.tensor([label]), logits)
    return bool(judgement.fooled)


WRONG, RIGHT = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[3.0, 0.0, 1.0]])


def test_another_class_fools_and_the_true_one_does_not() -> None:
    judge = Judge(0.3, "inf")
    assert fooled(judge, changed(0.1, 0, 0, 0), WRONG)
    assert not fooled(judge, changed(0.1, 0, 0, 0), RIGHT)
    assert not fooled(judge, changed(0.1, 0, 0, 0), WRONG, label=1)
    assert judge.judge(changed(0, 0, 0, 0), ORIGINALS, torch.tensor([0]), WRONG).predictions.tolist() == [1]


@pytest.mark.parametrize(("norm", "length"), [("inf", 0.2), ("2", math.sqrt(0.2**2 + 0.1**2)), ("1", 0.3), ("0", 2.0)])
def test_a_change_beyond_epsilon_is_no_failure(norm: str, length: float) -> None:
    inputs = changed(0.2, -0.1, 0, 0)
    assert fooled(Judge(1.01 * length, norm), inputs, WRONG)
    assert fooled(Judge(length, norm), inputs, WRONG)
    assert not fooled(Judge(0.99 * length, norm), inputs, WRONG)
    assert fooled(Judge(math.inf, norm), inputs, WRONG)


def test_an_abstention_is_no_failure() -> None:
    judge = Judge(0.3, "inf", abstains=lambda logits: logits.amax(dim=1) < 5)
    judgement = judge.judge(changed(0, 0, 0, 0), ORIGINALS, torch.tensor([0]), WRONG)
    assert (bool(judgement.fooled), bool(judgement.rejected)) == (False, True)
    judgement = judge.judge(changed(0, 0, 0, 0), ORIGINALS, torch.tensor([0]), 2 * WRONG)
    assert (bool(judgement.fooled), bool(judgement.rejected)) == (True, False)


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
def test_every_row_is_judged_as_if_it_were_alone(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    originals = torch.rand(40, 1, 3, 3, generator=generator)
    inputs = originals + 0.2 * torch.randn(originals.shape, generator=generator)
    logits, labels = torch.randn(40, 3, generator=generator), torch.arange(40) % 3
    lengths = (inputs - originals).flatten(1).norm(p=float(norm), dim=1)
    judge = Judge(float(lengths.median()), norm, abstains=lambda logits: logits.amax(dim=1) < 0.3)
    together = judge.judge(inputs, originals, labels, logits)
    expected = (logits.argmax(dim=1) != labels) & (logits.amax(dim=1) >= 0.3) & (lengths <= lengths.median() + 1e-6)
    assert torch.equal(together.fooled, expected)
    assert 0 < int(expected.sum()) < 40
    for row in range(40):
        rows = slice(row, row + 1)
        alone = judge.judge(inputs[rows], originals[rows], labels[rows], logits[rows])
        assert bool(alone.fooled) == bool(together.fooled[row])
