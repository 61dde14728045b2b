"""Flags win over the environment, the environment over defaults, and a bad address is named with its flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from survival_service.settings import InvalidSetting, Settings


def test_without_anything_said_the_defaults_hold() -> None:
    settings = Settings.gather({"XDG_STATE_HOME": "/var/state"})
    assert settings == Settings("127.0.0.1:50052", "127.0.0.1:50051", Path("/var/state/afr"))


def test_a_relative_xdg_folder_is_ignored_as_its_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert Settings.gather({"XDG_STATE_HOME": "state"}).state == Path("/home/someone/.local/state/afr")


def test_a_flag_wins_over_the_environment() -> None:
    environment = {"AFR_ADDRESS": "0.0.0.0:1", "AFR_ATTACK_ADDRESS": "attack:2", "AFR_STATE": "/state"}
    settings = Settings.gather(environment, attack_address="other:3", state="/flag")
    assert settings == Settings("0.0.0.0:1", "other:3", Path("/flag"))


@pytest.mark.parametrize("address", ["localhost", ":50052", "host:port", "host:65536", "host:-1", "host:٣"])
def test_a_bad_address_is_named_with_its_flag(address: str) -> None:
    with pytest.raises(InvalidSetting, match=r"--address '.*' is no address; give HOST:PORT, for example"):
        Settings.gather({}, address=address)


def test_only_a_listener_may_leave_the_port_to_the_system() -> None:
    assert Settings.gather({}, address="127.0.0.1:0").host == "127.0.0.1"
    with pytest.raises(InvalidSetting, match="--attack-address"):
        Settings.gather({}, attack_address="127.0.0.1:0")
