"""The defences that there are, and the parameters they take. `defences` and `hardening` do what is described here."""

from __future__ import annotations

from collections.abc import Mapping

from attack_service.entries import Defence, ParameterSchema

_PAPER_DEVIATIONS = (0.001, 0.01, 0.1, 0.3, 0.5, 1.0)

DEFENCES: dict[str, Defence] = {
    defence.name: defence
    for defence in (
        Defence("none", "No defence: the model as it was trained.", ()),
        Defence(
            "gaussian-augmentation",
            "Gaussian noise on a random half of every training batch, clipped to [0, 1] (Zantedeschi et al., "
            "arXiv 1707.06728). Acts in training only.",
            (
                ParameterSchema(
                    "deviation", "The standard deviation of the noise.", 0.1, 0.0, True, 1.0,
                    unit="inputs in [0, 1]", paper_values=_PAPER_DEVIATIONS,
                ),
            ),
            trains=True,
        ),
        Defence(
            "adversarial-training",
            "Training on samples that PGD in the norm inf has changed (Madry et al., arXiv 1706.06083). Acts in "
            "training only, and multiplies its cost.",
            (
                ParameterSchema(
                    "epsilon", "The radius of the ball that training searches.", 8 / 255, 0.0, True, 1.0,
                    unit="inputs in [0, 1], norm inf",
                ),
                ParameterSchema(
                    "iterations", "The steps of PGD on a training sample, each of 2.5 x epsilon / iterations, at most "
                    "epsilon.", 7.0, 1.0, False, 100.0, integer=True, unit="steps",
                ),
                ParameterSchema(
                    "share", "The share of every training batch that is changed.", 1.0, 0.0, True, 1.0, unit="share",
                ),
            ),
            trains=True,
        ),
        Defence(
            "gaussian-noise",
            "Gaussian noise on the logits (arXiv 2401.13751), attacked and judged in expectation over repeats.",
            (
                ParameterSchema(
                    "deviation", "The standard deviation of the noise.", 0.1, 0.0, True, 1000.0,
                    unit="logits", paper_values=_PAPER_DEVIATIONS,
                ),
                ParameterSchema(
                    "repeats", "The number of answers whose mean the attacker takes.", 10.0, 1.0, False, 100.0,
                    integer=True, unit="answers",
                ),
            ),
        ),
        Defence(
            "high-confidence",
            "No answer where the largest softmax probability is below a cutoff.",
            (
                ParameterSchema(
                    "cutoff", "The least probability with which an answer is given.", 0.9, 0.0, True, 0.999999,
                    unit="probability", paper_values=(0.1, 0.5, 0.9, 0.99, 0.999),
                ),
            ),
        ),
        Defence(
            "feature-squeezing",
            "Every input value rounded to one of 2^bit_depth levels (Xu et al., arXiv 1704.01155). Images of 8 bits "
            "lose nothing from 8 on, and nothing at all is lost from 24 on.",
            (
                ParameterSchema(
                    "bit_depth", "The bits that are left of an input value.", 4.0, 1.0, False, 64.0,
                    integer=True, unit="bits", paper_values=(2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
                ),
            ),
        ),
        Defence(
            "jpeg",
            "The image compressed and decompressed (Dziugaite et al., arXiv 1608.00853).",
            (
                ParameterSchema(
                    "quality", "The quality that libjpeg is asked for.", 75.0, 1.0, False, 100.0,
                    integer=True, unit="libjpeg's scale",
                ),
            ),
        ),
        Defence(
            "spatial-smoothing",
            "Every input value replaced by the median of the square window around it (Xu et al., arXiv 1704.01155).",
            (
                ParameterSchema(
                    "window", "The side of the window, an odd number.", 3.0, 3.0, False, 9.0, integer=True,
                    unit="pixels",
                ),
            ),
        ),
    )
}  # fmt: skip


def answer_price(defence: str, parameters: Mapping[str, float], access: str) -> int:
    """How many forward evaluations of the model one answer of this defence costs who sees `access` of the model.

    A defence that answers by chance is judged by the mean of `repeats` answers. Who sees `gradients` has the weights,
    and averages noise on the output of one forward evaluation; anyone else has to ask for every answer.
    """
    return int(parameters["repeats"]) if defence == "gaussian-noise" and access != "gradients" else 1
