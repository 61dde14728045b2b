"""HopSkipJump against the closed-form distance to a linear boundary, and beside the toolbox's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attack_service.attacks.hopskipjump import HopSkipJump
from attack_service.attacks.norms import lengths
from attack_service.attacks.querying import Answer
from attack_service.black_box_parameters import hopskipjump_maxima
from attack_service.outcomes import Verdict

PARAMETERS = {"max_iterations": 6.0, "initial_evaluations": 60.0, "max_evaluations": 100.0, "max_starts": 30.0}


def attack(norm: str, seed: int = 0) -> HopSkipJump:
    return HopSkipJump(6, 60, 100, 30, norm, seed)


def distances(
    attack: HopSkipJump, model: nn.Module, image: Tensor, label: int, norm: str, sample_index: int = 0
) -> list[float]:
    """How far each image that the attack asks about is from the sample, infinity if it has the sample's class."""
    found: list[float] = []
    interview = attack.ask(image, label, sample_index)
    question = next(interview)
    while True:
        with torch.no_grad():
            logits = model(question.images)
        wrong = (logits.argmax(dim=1) != label).numpy()
        far = lengths((question.images - image).flatten(1), norm).squeeze(1).numpy()
        found.extend(np.where(wrong, far, np.inf).tolist())
        try:
            # A decision-based attack has no use for logits, so there are none.
            question = interview.send(Answer(torch.full_like(logits, torch.nan), None, wrong))
        except StopIteration:
            return found


@pytest.mark.parametrize(("norm", "dual"), [("2", "2"), ("inf", "1")])
def test_the_distance_is_within_a_quarter_of_that_to_a_linear_boundary(linear_classifier, norm: str, dual: str) -> None:
    """The nearest point of another class is |f| / |w| away, with the dual norm of the weights."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(36, generator=generator)
    model = linear_classifier(weights, bias=-0.5 * float(weights.sum()))
    images = 0.35 + 0.3 * torch.rand(8, 1, 6, 6, generator=generator)
    scores = model(images)[:, 1]
    closed_form = scores.abs() / lengths(weights[None], dual)[0]
    shares = []
    for index, (image, score) in enumerate(zip(images, scores, strict=True)):
        found = distances(attack(norm), model, image, int(score > 0), norm, index)
        assert len(found) <= hopskipjump_maxima(PARAMETERS)[0]
        shares.append(min(found) / float(closed_form[index]))
    assert min(shares) >= 1 - 1e-3
    assert np.median(shares) <= 1.25


def test_a_sample_ends_at_the_first_question_within_epsilon_and_every_question_is_counted(
    linear_classifier, attacked
) -> None:
    generator = torch.Generator().manual_seed(4)
    weights = torch.randn(36, generator=generator)
    model = linear_classifier(weights, bias=-0.5 * float(weights.sum()))
    images = 0.35 + 0.3 * torch.rand(6, 1, 6, 6, generator=generator)
    labels = (model(images)[:, 1] > 0).long()
    asked = [distances(attack("2"), model, images[i], int(labels[i]), "2", i) for i in range(6)]
    epsilon = float(np.median([min(far) for far in asked]))
    outcomes = attacked(attack("2"), model, images, labels, epsilon=epsilon, norm="2", width=8)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.FAILED, Verdict.SURVIVED}
    for outcome, far in zip(outcomes, asked, strict=True):
        near = [query for query, distance in enumerate(far, start=1) if distance <= epsilon * (1 + 1e-6)]
        if near:
            assert (outcome.query_count_lower, outcome.query_count_upper) == (near[0] - 1, near[0])
            assert outcome.distance_l2 <= epsilon * (1 + 1e-4)
        else:
            assert (outcome.query_count_lower, outcome.query_count_upper) == (len(far), None)


def test_where_everything_has_the_class_of_the_sample_it_gives_up_after_the_starts(linear_classifier, attacked) -> None:
    model = linear_classifier(torch.ones(9), bias=1.0)
    (outcome,) = attacked(attack("inf"), model, torch.rand(1, 1, 3, 3), torch.tensor([1]), epsilon=1.0)
    assert (outcome.verdict, outcome.query_count_lower) == (Verdict.SURVIVED, 30)


def test_the_start_is_seeded_and_belongs_to_the_sample(linear_classifier) -> None:
    image = torch.full((1, 4, 4), 0.3)
    first, again, other_seed = (next(attack("2", seed).ask(image, 0, 5)).images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other_seed)
    assert not torch.equal(first, next(attack("2").ask(image, 0, 6)).images)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_its_distance_is_no_worse_than_the_toolbox_reaches_with_as_many_queries(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both draw the same starts, since the toolbox does not seed its own. At each of four numbers of queries.

    Nine hundred searches: where one begins decides more than what it does. Of 30 seeds with 100 samples each the ratio
    of medians was 0.91 to 1.17, and of all of them together the geometric mean of the ratios 1.00 +- 0.01.
    """
    evasion = pytest.importorskip("art.attacks.evasion")
    from art.estimators.classification import PyTorchClassifier

    generator = torch.Generator().manual_seed(1)
    hidden, last = torch.randn(64, 20, generator=generator) / 4, torch.randn(20, 5, generator=generator)

    class Bent(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tanh((images.flatten(1) - 0.5) @ hidden) @ last

    model = Bent()
    images = torch.rand(60, 1, 8, 8, generator=generator)
    labels = model(images).argmax(dim=1)
    ours, theirs = [], []
    for row, (image, label) in enumerate(zip([*images] * 15, labels.tolist() * 15, strict=True)):
        native = HopSkipJump(4, 60, 10_000, 100, norm, seed=row // 60)
        ours.append(distances(native, model, image, label, norm, row))
        seen: list[float] = []
        classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 5, clip_values=(0.0, 1.0))

        def predict(x: np.ndarray, image=image, label=label, seen=seen, **arguments: object) -> np.ndarray:
            inputs = torch.from_numpy(np.asarray(x, dtype=np.float32))
            with torch.no_grad():
                logits = model(inputs)
            far = lengths((inputs - image).flatten(1), norm).squeeze(1)
            seen.extend(torch.where(logits.argmax(dim=1) != label, far, torch.inf).tolist())
            return logits.numpy()

        class Starts:
            """In the place of the toolbox's random numbers of a start: those that ours draws, one after the other."""

            def __init__(self, native=native, image=image, label=label, row=row) -> None:
                self._interview = native.ask(image, label, row)
                self._answer: Answer | None = None

            def uniform(self, low: float, high: float, size: tuple[int, ...]) -> np.ndarray:
                question = self._interview.send(self._answer) if self._answer else next(self._interview)
                self._answer = Answer(torch.zeros(1, 5), None, np.array([False]))
                return question.images[0].numpy()

        classifier.predict = predict
        np.random.seed(row)
        toolbox = evasion.HopSkipJump(
            classifier, norm=2 if norm == "2" else np.inf, max_iter=4, init_eval=60, verbose=False
        )
        with monkeypatch.context() as patch:
            patch.setattr(np.random, "RandomState", Starts)
            toolbox.generate(image[None].numpy())
        # It asks about the clean image first.
        theirs.append(seen[1:])
    for query_count in (40, 200, 300, 380):
        nearest = np.array([[min(far[:query_count]) for far in found] for found in (ours, theirs)])
        ratio = np.exp(np.log(nearest[0] / nearest[1]).mean())
        print(f"{query_count} queries: the toolbox's distance times {ratio:.3f}; medians {np.median(nearest, axis=1)}")
        assert ratio <= 1.03
