"""The compose file starts what exists, hardened, and publishes what it should on loopback only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OURS = ["attack-server", "attack-worker", "survival-server"]
SERVICES = [*OURS, "redis"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_no_more_than_it_must(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert any(mount.startswith("/tmp") for mount in service["tmpfs"])


def test_the_services_are_the_known_ones(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == set(SERVICES)


def test_no_image_floats(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        name, _, tag = service["image"].partition(":")
        assert name
        assert tag
        assert "latest" not in tag


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_one_that_the_process_reads(
    compose: dict[str, Any], variables: dict[str, set[str]], name: str
) -> None:
    assert set(compose["services"][name]["environment"]) <= variables[name]


@pytest.mark.parametrize("name", ["attack-server", "survival-server"])
def test_ports_are_the_defaults_and_published_on_loopback(
    compose: dict[str, Any], ports: dict[str, int], health_names: dict[str, str], name: str
) -> None:
    service = compose["services"][name]
    assert service["environment"]["AFR_ADDRESS"] == f"0.0.0.0:{ports[name]}"
    assert service["ports"] == [f"127.0.0.1:{ports[name]}:{ports[name]}"]
    assert service["healthcheck"]["test"][-2:] == [f"127.0.0.1:{ports[name]}", health_names[name]]


def test_the_survival_server_finds_the_attack_server(compose: dict[str, Any], ports: dict[str, int]) -> None:
    address = compose["services"]["survival-server"]["environment"]["AFR_ATTACK_ADDRESS"]
    assert address == f"attack-server:{ports['attack-server']}"
    networks = [set(compose["services"][name]["networks"]) for name in ("survival-server", "attack-server")]
    assert networks[0] & networks[1]


def test_redis_is_reached_by_nobody_else(compose: dict[str, Any]) -> None:
    redis = compose["services"]["redis"]
    assert "ports" not in redis
    assert redis["networks"] == ["queue"]
    assert compose["networks"]["queue"] == {"internal": True}
    members = {name for name, service in compose["services"].items() if "queue" in service["networks"]}
    assert members == {"redis", "attack-server", "attack-worker"}


def test_what_is_waited_for_has_a_health_check(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["healthcheck"]["test"]
        for name, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert name in compose["services"]


@pytest.mark.parametrize("name", OURS)
def test_the_health_check_is_the_one_of_the_image(
    compose: dict[str, Any], instructions: Callable[[str], list[tuple[str, str]]], name: str
) -> None:
    service = compose["services"][name]
    checks = [
        json.loads(rest[rest.index("CMD ") + 4 :])
        for keyword, rest in instructions(service["build"]["dockerfile"])
        if keyword == "HEALTHCHECK"
    ]
    assert service["healthcheck"]["test"][1:] in checks


def test_what_is_built_and_mounted_exists(compose: dict[str, Any], root: Path) -> None:
    for service in compose["services"].values():
        if build := service.get("build"):
            assert (root / "deploy" / build["context"] / build["dockerfile"]).is_file()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (root / "deploy" / source).is_file()
            else:
                assert source in compose["volumes"]


def test_the_worker_has_a_gpu_and_time_to_put_its_job_back(compose: dict[str, Any]) -> None:
    worker = compose["services"]["attack-worker"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert float(worker["environment"]["AFR_SHUTDOWN_SECONDS"]) < float(worker["stop_grace_period"].removesuffix("s"))


def test_without_a_gpu_only_the_worker_changes(compose: dict[str, Any], compose_cpu: dict[str, Any]) -> None:
    assert set(compose_cpu["services"]) == {"attack-worker"}
    worker = compose_cpu["services"]["attack-worker"]
    assert worker["environment"] == {"AFR_DEVICE": "cpu"}
    assert worker["deploy"]["resources"]["reservations"]["devices"] == []
    assert worker["image"] == compose["services"]["attack-worker"]["image"] + "-cpu"
