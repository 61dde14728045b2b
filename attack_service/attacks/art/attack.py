"""Attacks of adversarial-robustness-toolbox, unchanged, a sample at a time, watched question by question.

Each sample runs the toolbox's own `generate()` on a batch of one, in a coroutine. What it asks the model is pooled with
the questions of the other samples and judged; at the first failure the coroutine is left for good. So no neighbour
changes a sample's steps, and a failed sample costs nothing more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from art.attacks import evasion
from art.estimators import classification
from torch import Tensor

from attack_service.attacks.art.classes import Recipe
from attack_service.attacks.art.coroutines import Coroutine
from attack_service.attacks.art.estimator import CannotBeWatched, Oracle, WatchedClassifier, classifier_of
from attack_service.attacks.art.subject import GivesUp, Subject
from attack_service.attacks.querying import Answer, Interview, QueryAttack
from attack_service.errors import InvalidSpecification


@dataclass(frozen=True, slots=True)
class ToolboxAttack(QueryAttack):
    """An attack of the toolbox, against a model of so many classes.

    `gave_up` counts the samples that it had to be stopped on, by reason.
    """

    recipe: Recipe
    class_count: int
    seed: int
    gave_up: Counter[str] = field(default_factory=Counter)

    def complaint(self) -> str | None:
        """What is to be said if some samples survive because the toolbox failed, or may do so."""
        complaints = []
        if self.gave_up:
            counts = " and ".join(f"{count} times because {reason}" for reason, count in sorted(self.gave_up.items()))
            name = self.recipe.class_name
            complaints.append(f"{name} of the toolbox gave up on samples, which survive by that: {counts}")
        # With fewer gradients than classes it subtracts another class's logit than that of the class to be left.
        if self.recipe.class_name == "DeepFool" and self.recipe.arguments.get("nb_grads", 10) < self.class_count:
            complaints.append(
                "DeepFool of the toolbox takes steps of a wrong length, or none, where it looks at some of the classes "
                "only, and samples may survive by that; set candidate_count (nb_grads of art:DeepFool) to "
                f"{self.class_count}, or take the native engine"
            )
        return "; ".join(complaints) or None

    def ask(self, image: Tensor, label: int, sample_index: int) -> Interview:
        subject = Subject(image, label, self.class_count)
        coroutine = Coroutine(lambda: self._attack(subject), seed=self.seed, sample_index=sample_index)
        answer: Answer | None = None
        try:
            while (question := coroutine.resume(answer)) is not None:
                answer = yield question
        finally:
            coroutine.end()

    def _attack(self, subject: Subject) -> None:
        result = None
        try:
            attack = build(self.recipe, subject, self.class_count, subject.image.shape)
            subject.begin()
            images = subject.image[None].copy()
            labels = np.eye(self.class_count, dtype=np.float32)[[subject.label]]
            result = attack.generate(images, labels) if self.recipe.takes_label else attack.generate(images)
        except GivesUp as reason:
            self.gave_up[str(reason)] += 1
        except CannotBeWatched as error:
            raise InvalidSpecification(
                "spec.attack",
                f"{self.recipe.class_name} of the toolbox cannot be watched: {error}; choose another attack",
            ) from error
        except Exception as error:
            raise InvalidSpecification(
                "spec.attack",
                f"{self.recipe.class_name} of adversarial-robustness-toolbox stopped with {type(error).__name__}: "
                f"{str(error)[:300]}; give it other parameters or another image size, or choose another attack",
            ) from error
        subject.conclude(result)


def seen_logits(images: Tensor, evaluate: Callable[[Tensor], Tensor], class_count: int) -> Tensor:
    """What the toolbox's classifier makes of images (n, channels, height, width), (n, classes).

    `evaluate` asks the model: images to logits.
    """
    subject = Subject(images[0], -1, class_count)
    seen: list[Any] = []

    def predict() -> None:
        classifier = classifier_of(subject, class_count, tuple(images.shape[1:]), as_probabilities=False)
        subject.begin()
        seen.append(classifier.predict(images.cpu().numpy()))

    coroutine = Coroutine(predict, seed=0, sample_index=0)
    answer: Answer | None = None
    try:
        while (question := coroutine.resume(answer)) is not None:
            logits = evaluate(question.images)
            answer = Answer(logits, None, np.ones(len(logits), dtype=bool))
    finally:
        coroutine.end()
    return torch.from_numpy(seen[0])


def build(recipe: Recipe, oracle: Oracle, class_count: int, input_shape: tuple[int, ...]) -> Any:
    """The toolbox's attack on a classifier that asks this oracle. Raises what the toolbox raises."""
    classifier = classifier_of(oracle, class_count, input_shape, as_probabilities=recipe.as_probabilities)
    original = classification.PyTorchClassifier
    # Some attacks make a classifier of their own from the model they are given: it must be watched as well.
    classification.PyTorchClassifier = WatchedClassifier
    try:
        return getattr(evasion, recipe.class_name)(classifier, **recipe.arguments)
    finally:
        classification.PyTorchClassifier = original
