"""Attacks of adversarial-robustness-toolbox, unchanged, watched from outside.

A hook on the model sees every forward evaluation, so every iterate is judged when the attack itself evaluates it. The
toolbox keeps failed samples in its batch: it spends device time on them, which is charged to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attack_service.attacks.iterates import Iterate
from attack_service.attacks.losses import Doubt


class _NothingLeft(Exception):
    """Raised inside the hook to leave the toolbox's loop when every sample's attack has ended."""


def attack_with_art(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    check: Callable[[Iterate], Tensor],
    *,
    attack: str,
    parameters: Mapping[str, float],
    norm: str,
    class_count: int,
) -> None:
    """Run `fgm` or `pgd` on a batch; call `check` with every iterate, all rows each time, until it keeps none."""
    estimator = wrap(model, inputs.shape[1:], class_count, inputs.device)
    attacking = _attack(estimator, attack, parameters, norm, batch_size=len(inputs))
    rows = torch.arange(len(inputs), device=inputs.device)
    step_count = int(parameters.get("max_iterations", 1))
    query_count = gradient_count = 0

    def count_gradient(gradient: Tensor) -> None:
        nonlocal gradient_count
        gradient_count += 1

    def watch(module: nn.Module, arguments: tuple[Any, ...], logits: Tensor) -> None:
        nonlocal query_count
        query_count += 1
        (evaluated,) = arguments
        if evaluated.requires_grad:
            evaluated.register_hook(count_gradient)
        # The first evaluation is of the clean sample, for its gradient; the next ones are of the iterates; what comes
        # after the last iterate is the toolbox's own account of its success.
        if 1 < query_count <= step_count + 1:
            iterate = Iterate(rows, evaluated.detach(), logits.detach(), query_count, gradient_count)
            if not bool(check(iterate).any()):
                raise _NothingLeft

    one_hot = np.eye(class_count, dtype=np.float32)[labels.cpu().numpy()]
    hook = model.register_forward_hook(watch)
    try:
        adversarial = attacking.generate(inputs.cpu().numpy(), one_hot)
        if attack == "fgm":
            # The toolbox does not evaluate its one iterate; projected descent judges its last one itself.
            estimator.predict(adversarial, batch_size=len(inputs))
    except _NothingLeft:
        pass
    finally:
        hook.remove()


def wrap(model: nn.Module, input_shape: tuple[int, ...], class_count: int, device: torch.device) -> Any:
    """The toolbox's estimator around a model that takes images in [0, 1]."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=model,
        loss=Doubt(),
        input_shape=tuple(input_shape),
        nb_classes=class_count,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )


def _attack(estimator: Any, attack: str, parameters: Mapping[str, float], norm: str, batch_size: int) -> Any:
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch

    order = np.inf if norm == "inf" else int(norm)
    if attack == "fgm":
        return FastGradientMethod(estimator, norm=order, eps=parameters["epsilon"], batch_size=batch_size)
    return ProjectedGradientDescentPyTorch(
        estimator,
        norm=order,
        eps=parameters["epsilon"],
        eps_step=parameters["step_size"],
        max_iter=int(parameters["max_iterations"]),
        batch_size=batch_size,
        verbose=False,
    )
