"""Settings come from flags, then from the environment, then from the defaults."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from pathlib import Path

import pytest

from attack_service.settings import ServeSettings, WorkSettings, add_options, read


def parse(kind, *arguments: str):
    parser = argparse.ArgumentParser()
    add_options(parser, kind)
    return vars(parser.parse_args(arguments))


def test_a_flag_wins_over_the_environment_and_that_over_the_default() -> None:
    environ = {"AFR_ADDRESS": "10.0.0.1:1", "AFR_REDIS_URL": "redis://there:1/0", "AFR_HEARTBEAT_SECONDS": "2.5"}
    settings = read(ServeSettings, parse(ServeSettings, "--address", "10.0.0.2:2"), environ)
    assert settings == ServeSettings(address="10.0.0.2:2", redis_url="redis://there:1/0", heartbeat_seconds=2.5)
    assert read(ServeSettings, {}, {}) == ServeSettings()


@pytest.mark.parametrize("kind", [ServeSettings, WorkSettings])
def test_every_setting_has_a_variable_of_its_own(kind) -> None:
    variables = [setting.metadata["variable"] for setting in fields(kind)]
    assert all(variable.startswith("AFR_") for variable in variables)
    assert len(set(variables)) == len(variables)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_seconds_are_positive_and_finite(value) -> None:
    with pytest.raises(ValueError, match="shutdown_seconds"):
        WorkSettings(shutdown_seconds=value)


def test_heartbeats_may_not_be_rarer_than_clients_expect() -> None:
    with pytest.raises(ValueError, match="at most 15"):
        ServeSettings(heartbeat_seconds=15.5)


def test_a_job_has_at_least_one_attempt() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        WorkSettings(attempt_limit=0)


def test_an_unknown_device_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        read(WorkSettings, {}, {"AFR_DEVICE": "tpu"})


def test_the_store_is_where_a_user_s_data_is_kept() -> None:
    assert WorkSettings().store_root({"XDG_DATA_HOME": "/data"}) == Path("/data/afr")
    assert WorkSettings().store_root({}) == Path.home() / ".local/share/afr"
    assert WorkSettings(store="/s").store_root({"XDG_DATA_HOME": "/data"}) == Path("/s")
    assert WorkSettings(store="/s").resolved_data_root({}) == Path("/s/data")
    assert WorkSettings(store="/s", data_root="/d").resolved_data_root({}) == Path("/d")
