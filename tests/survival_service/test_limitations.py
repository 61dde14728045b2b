"""What limits a report, said once a reason."""

from __future__ import annotations

from survival_service.limitations import left_out


def test_covariates_left_out_for_one_reason_are_one_sentence() -> None:
    dropped = (
        "tv (0 is 1, 1 is 2) is the same in every observation",
        "b is the same in every observation",
        "c cannot be told apart from a",
        "d cannot be told apart from a",
        "e cannot be told apart from a",
        "f cannot be told apart from a and g",
    )
    assert list(left_out(dropped)) == [
        "left out of the fits: 'tv 2 instead of 1' and b are the same in every observation",
        "left out of the fits: c, d and e cannot be told apart from a",
        "left out of the fits: f cannot be told apart from a and g",
    ]
    assert not list(left_out(()))
