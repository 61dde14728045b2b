"""The other libraries' attacks on the model as it was trained, called as their documentation calls them.

Each function returns a library's attack on a batch, or None if it has none of that name. A library that is not
installed raises ImportError. The settings are those of `cases.py`, the same for all.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from throughput.measuring import Attack

Settings = Mapping[str, float]


def art(trained: nn.Module, attack: str, settings: Settings) -> Attack | None:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    device = next(trained.parameters()).device
    model = Single(trained) if attack in ("hopskipjump", "pixel", "threshold") else trained
    estimator = PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 32, 32),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )
    s = settings
    builders: dict[str, Callable[[], Any]] = {
        "pgd": lambda: evasion.ProjectedGradientDescent(
            estimator, eps=s["epsilon"], eps_step=s["step_size"], max_iter=int(s["steps"]), batch_size=64, verbose=False
        ),
        "deepfool": lambda: evasion.DeepFool(
            estimator, max_iter=int(s["steps"]), epsilon=s["overshoot"], nb_grads=10, batch_size=64, verbose=False
        ),
        "cw": lambda: evasion.CarliniL2Method(
            estimator,
            learning_rate=s["step_size"],
            binary_search_steps=int(s["searches"]),
            max_iter=int(s["steps"]),
            initial_const=s["weight"],
            batch_size=64,
            verbose=False,
        ),
        "apgd": lambda: evasion.AutoProjectedGradientDescent(
            estimator,
            eps=s["epsilon"],
            eps_step=2 * s["epsilon"],
            max_iter=int(s["steps"]),
            nb_random_init=1,
            batch_size=64,
            loss_type="cross_entropy",
            verbose=False,
        ),
        "square": lambda: evasion.SquareAttack(
            estimator, eps=s["epsilon"], max_iter=int(s["queries"]), p_init=0.8, batch_size=64, verbose=False
        ),
        "hopskipjump": lambda: evasion.HopSkipJump(
            estimator,
            batch_size=64,
            norm=2,
            max_iter=int(s["steps"]),
            max_eval=10000,
            init_eval=int(s["estimates"]),
            init_size=100,
            verbose=False,
        ),
        "pixel": lambda: evasion.PixelAttack(
            estimator, th=int(s["pixels"]), es=1, max_iter=int(s["generations"]), verbose=False
        ),
        "threshold": lambda: evasion.ThresholdAttack(
            estimator, th=int(s["levels"]), es=1, max_iter=int(s["generations"]), verbose=False
        ),
    }
    attacking = builders[attack]()

    def run(images: Tensor, labels: Tensor) -> Tensor:
        one_hot = np.eye(10, dtype=np.float32)[labels.cpu().numpy()]
        return torch.from_numpy(attacking.generate(images.cpu().numpy(), one_hot)).to(device)

    return run


class Single(nn.Module):
    """A model that takes the float64 images which some of ART's attacks make of float32 ones under numpy 2."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.float())  # type: ignore[no-any-return]


def torchattacks(trained: nn.Module, attack: str, settings: Settings) -> Attack | None:
    import torchattacks as library

    s = settings
    builders: dict[str, Callable[[], Any]] = {
        "pgd": lambda: library.PGD(
            trained, eps=s["epsilon"], alpha=s["step_size"], steps=int(s["steps"]), random_start=False
        ),
        "deepfool": lambda: library.DeepFool(trained, steps=int(s["steps"]), overshoot=s["overshoot"]),
        # It searches for no weight; it is given the one with which it reaches what the others reach.
        "cw": lambda: library.CW(
            trained, c=s["fixed_weight"], steps=int(s["steps"] * s["searches"]), lr=s["step_size"]
        ),
        "apgd": lambda: library.APGD(trained, norm="Linf", eps=s["epsilon"], steps=int(s["steps"]), loss="ce"),
        "square": lambda: library.Square(trained, norm="Linf", eps=s["epsilon"], n_queries=int(s["queries"])),
    }
    return builders[attack]() if attack in builders else None


def foolbox(trained: nn.Module, attack: str, settings: Settings) -> Attack | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its weights fetcher uses what setuptools has deprecated
        import foolbox as library

    s = settings
    builders: dict[str, Callable[[], Any]] = {
        "pgd": lambda: library.attacks.LinfPGD(abs_stepsize=s["step_size"], steps=int(s["steps"]), random_start=False),
        "deepfool": lambda: library.attacks.L2DeepFoolAttack(
            steps=int(s["steps"]), candidates=10, overshoot=s["overshoot"]
        ),
        "cw": lambda: library.attacks.L2CarliniWagnerAttack(
            binary_search_steps=int(s["searches"]),
            steps=int(s["steps"]),
            stepsize=s["step_size"],
            initial_const=s["weight"],
        ),
        "hopskipjump": lambda: library.attacks.HopSkipJumpAttack(
            steps=int(s["steps"]), initial_gradient_eval_steps=int(s["estimates"]), max_gradient_eval_steps=10000
        ),
    }
    if attack not in builders:
        return None
    attacking = builders[attack]()
    model = library.PyTorchModel(trained, bounds=(0, 1), device=next(trained.parameters()).device)
    # A minimum-norm attack has no budget; the judge applies the case's to what it returns.
    epsilon = None if attack in ("deepfool", "cw", "hopskipjump") else s["epsilon"]

    def run(images: Tensor, labels: Tensor) -> Tensor:
        _, clipped, _ = attacking(model, images, labels, epsilons=epsilon)
        return clipped  # type: ignore[no-any-return]

    return run


def adv_lib(trained: nn.Module, attack: str, settings: Settings) -> Attack | None:
    # It imports visdom to draw curves, which needs a server and is not installed; nothing here is drawn.
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it compares versions in a deprecated way
        import adv_lib.attacks as library

    s = settings
    attacks: dict[str, Attack] = {
        "pgd": lambda x, y: library.pgd_linf(
            trained, x, y, ε=s["epsilon"], steps=int(s["steps"]), random_init=False, absolute_step_size=s["step_size"]
        ),
        "deepfool": lambda x, y: library.df(trained, x, y, steps=int(s["steps"]), overshoot=s["overshoot"]),
        "cw": lambda x, y: library.carlini_wagner_l2(
            trained,
            x,
            y,
            learning_rate=s["step_size"],
            initial_const=s["weight"],
            binary_search_steps=int(s["searches"]),
            max_iterations=int(s["steps"]),
        ),
        "apgd": lambda x, y: library.apgd(
            trained, x, y, eps=s["epsilon"], norm=float("inf"), n_iter=int(s["steps"]), loss_function="ce"
        ),
    }
    return attacks.get(attack)


# In the order of the table's columns.
LIBRARIES: dict[str, Callable[[nn.Module, str, Settings], Attack | None]] = {
    "ART": art,
    "torchattacks": torchattacks,
    "Foolbox": foolbox,
    "adv-lib": adv_lib,
}
