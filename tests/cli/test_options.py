"""What values options take."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from cli.connecting import option_of
from cli.options import data_folder, level, not_negative, positive


def test_a_perturbation_may_be_a_fraction_of_255() -> None:
    assert positive("8/255") == pytest.approx(8 / 255, rel=1e-15)
    assert positive("0.05") == 0.05
    assert not_negative("0") == 0


@pytest.mark.parametrize("value", ["0", "1", "95", "nan", "95 %"])
def test_a_level_is_a_share(value: str) -> None:
    with pytest.raises(click.BadParameter):
        level(value)


def test_a_folder_of_datasets_need_not_exist_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_folder("data") == tmp_path / "data"
    assert not (tmp_path / "data").exists()
    with pytest.raises(click.BadParameter, match="check the path"):
        data_folder("no/such/data")


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("spec.norm", "--norm"),
        ("spec.sample_count", "--samples"),
        ("spec.attack_parameters.step_size", "--step-size"),
        ("spec.attack_parameters.norm", "--attack-parameter norm"),
        ("spec.defence_parameters.epsilon", "--defence-parameter epsilon"),
        ("spec.attack_parameters", ""),
        ("page_token", ""),
    ],
)
def test_a_refused_field_is_named_as_the_option_that_filled_it(field: str, option: str) -> None:
    assert option_of(field) == option
