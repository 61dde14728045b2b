"""What differs between jobs is said in the same words by the command and by the service."""

from __future__ import annotations

import math

import pytest
from afr.survival.v1 import survival_service_pb2 as pb

from cli.covariates import contrast, covariate_word, effects, effects_caption
from survival_service.covariates import in_words

NAMES = {
    "log_epsilon": "epsilon",
    "log_step_size": "step size",
    "max_iterations": "max iterations",
    "model_depth": "model depth",
    "epoch_count": "training epochs",
    "attack=fgm (against pgd)": "attack fgm instead of pgd",
    "attack=art:SignOPTAttack (against pgd)": "attack art:SignOPTAttack instead of pgd",
    "gaussian-noise deviation (0 is 0.1, 1 is 0.5)": "gaussian-noise deviation 0.5 instead of 0.1",
    "attack=pgd (against fgm), against attack=bim (against fgm)": "attack pgd instead of bim",
    "attack=pgd (against fgm), against log_epsilon": "attack pgd instead of fgm",
}


@pytest.mark.parametrize(("name", "words"), NAMES.items())
def test_both_sides_have_the_same_words(name: str, words: str) -> None:
    assert covariate_word(name) == in_words(name) == words


def test_a_factor_says_what_it_is_the_factor_of() -> None:
    assert contrast("log_epsilon") == ("epsilon doubled", math.log(2))
    assert contrast("model_depth") == ("model depth plus 1", 1.0)
    assert contrast("attack=fgm (against pgd)") == ("attack fgm instead of pgd", 1.0)


def test_a_bound_of_what_enters_as_a_logarithm_is_that_of_a_doubling() -> None:
    """exp(3) for a factor of e is 8 for a factor of 2."""
    fit = pb.Fit(status=pb.Fit.STATUS_GROUP_WITHOUT_FAILURE)
    fit.effect_bounds.add(covariate="log_epsilon", lower=math.exp(3))
    fit.effect_bounds.add(covariate="attack=fgm (against pgd)", upper=0.5)
    fit.effect_bounds.add(covariate="epoch_count")
    assert effects(pb.ClockReport(fits=[fit])) == [
        ("epsilon doubled", "× at least 8.00"),
        ("attack fgm instead of pgd", "× at most 0.500"),
        ("training epochs plus 1", "× –"),
    ]


def test_a_distance_is_no_time() -> None:
    assert "multiplies the time to failure" in effects_caption(pb.ClockReport(clock=pb.CLOCK_SECONDS))
    assert "multiplies the distance at failure" in effects_caption(pb.ClockReport(clock=pb.CLOCK_DISTANCE))
