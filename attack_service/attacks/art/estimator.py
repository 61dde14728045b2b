"""The toolbox's classifier, whose model is somewhere else: what it is asked becomes a question to an oracle.

Its own tensors live on the CPU whatever the model's device is; only the questions travel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.utils import check_and_transform_label_format
from torch import Tensor, nn

from attack_service.attacks.art.memory import Array
from attack_service.attacks.losses import doubt

# Of some rows of logits (n, classes), the numbers (n) or (n, m) to be differentiated by their images.
RowObjective = Callable[[Tensor], Tensor]


class CannotBeWatched(Exception):
    """The attack wants more of the model than its answers and their gradients."""


class Oracle(Protocol):
    """Whom the classifier asks; images are float32, (n, channels, height, width)."""

    def logits(self, images: Array, *, of_iterate: bool = False) -> Array:
        """The model's answers, (n, classes). `of_iterate`: it is where the attack has come to, if it moved or not."""

    def gradients(self, images: Array, objective: RowObjective, gradient_count: int, kind: object) -> Array:
        """The gradients of an objective's numbers by the images, (n, …), or (n, m, …) if there are m above 1.

        `kind` tells objectives from one another.
        """


class Doubt(nn.CrossEntropyLoss):
    """The doubt in the place of the cross-entropy that the toolbox asks for (`losses.doubt` says why)."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        rows = doubt(input, target)
        return rows if self.reduction == "none" else rows.sum() if self.reduction == "sum" else rows.mean()


class Elsewhere(nn.Module):
    """Stands where the toolbox expects a model; answers with logits, or, if `as_probabilities`, with their softmax."""

    def __init__(self, oracle: Oracle, *, as_probabilities: bool) -> None:
        super().__init__()
        self.oracle = oracle
        self.as_probabilities = as_probabilities

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            raise CannotBeWatched("it differentiates the model by itself")
        return torch.from_numpy(self.oracle.logits(_array(images)))


class WatchedClassifier(PyTorchClassifier):  # type: ignore[misc]  # the toolbox has no types
    """A classifier for any attack of the toolbox, also for those that make one of their own from its model."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **(named | {"device_type": "cpu"}))

    @property
    def _elsewhere(self) -> Elsewhere:
        model: Elsewhere = self.model
        return model

    def predict(self, x: Any, batch_size: int = 128, training_mode: bool = False, **named: Any) -> Any:
        logits = self._elsewhere.oracle.logits(_array(x), of_iterate=True)
        if not self._elsewhere.as_probabilities:
            return logits
        # In float32 a model that is sure of itself would be certain, and nothing could make it less so.
        return torch.from_numpy(logits).double().softmax(dim=1).numpy()

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **named: Any) -> Any:
        images, labels = _array(x), _tensor(self.reduce_labels(y))
        count = len(images)

        def objective_of(label: Tensor) -> RowObjective:
            def objective(logits: Tensor) -> Tensor:
                targets = label.to(logits.device).expand(len(logits), *label.shape[1:])
                # The toolbox's loss is the mean over a batch.
                return self._losses(logits, targets, "none") / count

            return objective

        gradients = self._differentiate(images, labels, objective_of, "loss")
        return torch.from_numpy(gradients) if isinstance(x, Tensor) else gradients

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **named: Any) -> Any:
        images = _array(x)
        if label is None:
            count = self.nb_classes
            return self._elsewhere.oracle.gradients(images, lambda logits: logits, count, "classes")
        labels = torch.as_tensor(np.array(label)).expand(len(images)).long()
        gradients = self._differentiate(
            images, labels, lambda chosen: lambda logits: logits[:, int(chosen[0])], "class"
        )
        return gradients[:, None]

    def compute_loss(self, x: Any, y: Any, reduction: str = "none", **named: Any) -> Any:
        labels = _tensor(self.reduce_labels(check_and_transform_label_format(y, self.nb_classes)))
        loss = self._losses(torch.from_numpy(self._elsewhere.oracle.logits(_array(x))), labels, reduction)
        return loss if isinstance(x, Tensor) else loss.numpy()

    def get_activations(self, *arguments: Any, **named: Any) -> Any:
        raise CannotBeWatched("it looks at layers inside the model")

    def fit(self, *arguments: Any, **named: Any) -> Any:
        raise CannotBeWatched("it trains the model")

    def _losses(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        before, self._loss.reduction = self._loss.reduction, reduction
        try:
            losses: Tensor = self._loss(logits, labels)
            return losses
        finally:
            self._loss.reduction = before

    def _differentiate(
        self, images: Array, labels: Tensor, objective_of: Callable[[Tensor], RowObjective], kind: str
    ) -> Array:
        """Gradients (n, …) of an objective of each row's own label; rows of one label are asked about together."""
        oracle = self._elsewhere.oracle
        if bool((labels == labels[:1]).all()):
            return oracle.gradients(images, objective_of(labels[:1]), 1, (kind, *labels[0].flatten().tolist()))
        rows = [
            oracle.gradients(images[row : row + 1], objective_of(labels[row : row + 1]), 1, (kind, row))
            for row in range(len(images))
        ]
        return np.concatenate(rows)


def classifier_of(
    oracle: Oracle, class_count: int, input_shape: tuple[int, ...], *, as_probabilities: bool
) -> WatchedClassifier:
    """A classifier of images (channels, height, width) in [0, 1] that asks this oracle."""
    model = Elsewhere(oracle, as_probabilities=as_probabilities)
    return WatchedClassifier(model, Doubt(), input_shape, class_count, clip_values=(0.0, 1.0), preprocessing=None)


def _array(images: Any) -> Array:
    """Images of the toolbox as the model takes them; under numpy 2 some of its attacks make float64 of them."""
    if isinstance(images, Tensor):
        if images.requires_grad and torch.is_grad_enabled():
            raise CannotBeWatched("it differentiates the model by itself")
        images = images.detach().numpy()
    return np.asarray(images, dtype=np.float32)


def _tensor(labels: Any) -> Tensor:
    return labels if isinstance(labels, Tensor) else torch.from_numpy(np.asarray(labels))
