"""The manifests hang together: names, ports, probes, variables, and the `restricted` profile on every pod."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

BASE = Path(__file__).parents[2] / "deploy/kubernetes/base"
COMPONENT = "app.kubernetes.io/component"
KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text())
MANIFESTS = [m for name in KUSTOMIZATION["resources"] for m in yaml.safe_load_all((BASE / name).read_text())]
WORKLOADS = {m["metadata"]["name"]: m for m in MANIFESTS if m["kind"] in ("Deployment", "StatefulSet")}
SERVERS = ["attack-server", "survival-server"]
OURS = [*SERVERS, "attack-worker"]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {m["metadata"]["name"]: m for m in MANIFESTS if m["kind"] == kind}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = WORKLOADS[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    result: dict[str, Any] = only
    return result


def literals(config_map: str) -> dict[str, str]:
    for generator in KUSTOMIZATION["configMapGenerator"]:
        if generator["name"] == config_map:
            return dict(line.split("=", 1) for line in generator.get("literals", ()))
    raise AssertionError(f"no ConfigMap {config_map}")


def environment(name: str) -> dict[str, str | None]:
    values = {entry["name"]: entry.get("value") for entry in container(name).get("env", ())}
    for source in container(name).get("envFrom", ()):
        values |= literals(source["configMapRef"]["name"])
    return values


def mebibytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi|mb|gb)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"M": 1, "G": 1024}[unit[0].upper()]


def test_every_manifest_is_listed() -> None:
    files = {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])


def test_the_workloads_are_the_known_ones() -> None:
    assert set(WORKLOADS) == {*OURS, "redis"}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_fits_the_restricted_profile(name: str) -> None:
    spec, only = pod(name), container(name)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 10_000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
    assert all("hostPort" not in port for port in only.get("ports", ()))
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
    assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])


def test_the_namespace_enforces_the_restricted_profile() -> None:
    labels = of_kind("Namespace")["afr"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_gets_no_credentials_of_the_cluster_and_no_variables_of_services(name: str) -> None:
    assert pod(name)["automountServiceAccountToken"] is False
    assert pod(name)["enableServiceLinks"] is False
    assert pod(name)["serviceAccountName"] in of_kind("ServiceAccount")


@pytest.mark.parametrize("name", WORKLOADS)
def test_requests_and_limits_are_set(name: str) -> None:
    resources = container(name)["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    assert {"cpu", "memory"} <= set(resources["limits"])


@pytest.mark.parametrize("name", WORKLOADS)
def test_selectors_select_the_pods(name: str) -> None:
    labels = WORKLOADS[name]["spec"]["template"]["metadata"]["labels"]
    assert WORKLOADS[name]["spec"]["selector"]["matchLabels"] == labels == {COMPONENT: name}


@pytest.mark.parametrize("name", WORKLOADS)
def test_mounts_and_volumes_are_paired(name: str) -> None:
    claims = [claim["metadata"]["name"] for claim in WORKLOADS[name]["spec"].get("volumeClaimTemplates", ())]
    volumes = [volume["name"] for volume in pod(name)["volumes"]] + claims
    assert sorted(mount["name"] for mount in container(name)["volumeMounts"]) == sorted(volumes)


def test_what_is_referred_to_exists() -> None:
    maps = {generator["name"] for generator in KUSTOMIZATION["configMapGenerator"]}
    for name in WORKLOADS:
        for volume in pod(name)["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in of_kind("PersistentVolumeClaim")
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
        for source in container(name).get("envFrom", ()):
            assert source["configMapRef"]["name"] in maps


def test_the_secret_is_made_as_the_readme_says(root: Path) -> None:
    keys = {item["key"] for v in pod("redis")["volumes"] if "secret" in v for item in v["secret"]["items"]}
    for name in OURS:
        for entry in container(name).get("env", ()):
            if "valueFrom" in entry:
                assert entry["valueFrom"]["secretKeyRef"]["name"] == "afr-redis"
                keys.add(entry["valueFrom"]["secretKeyRef"]["key"])
    readme = (root / "deploy/README.md").read_text()
    assert "create secret generic afr-redis" in readme
    assert {key for key in keys if f"--from-literal={key}=" in readme} == keys


def test_no_image_floats_and_each_can_be_replaced(compose: dict[str, Any]) -> None:
    replaceable = {image["name"]: image["newTag"] for image in KUSTOMIZATION["images"]}
    for name in WORKLOADS:
        image, _, tag = container(name)["image"].rpartition(":")
        assert re.search(r"\d", tag)
        assert compose["services"][name]["image"] in (f"{image}:{tag}", f"{image}:${{AFR_TAG:-{tag}}}")
        assert replaceable.get(image, tag) == tag
        assert (image in replaceable) == (name in OURS)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_reached_and_probed_on_its_port(
    name: str, ports: dict[str, int], health_names: dict[str, str]
) -> None:
    only = container(name)
    assert only["ports"] == [{"name": "grpc", "containerPort": ports[name]}]
    assert environment(name)["AFR_ADDRESS"] == f"0.0.0.0:{ports[name]}"
    (port,) = of_kind("Service")[name]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (ports[name], "grpc")
    for probe in ("startupProbe", "readinessProbe"):
        assert only[probe]["grpc"] == {"port": ports[name], "service": health_names[name]}
    assert only["livenessProbe"]["grpc"] == {"port": ports[name]}


def test_port_names_are_short_and_known_to_the_services() -> None:
    for name, service in of_kind("Service").items():
        assert service["spec"]["selector"] == {COMPONENT: name}
        named = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
        assert all(len(port) <= 15 for port in named)
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in named


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_one_that_the_process_reads(name: str, variables: dict[str, set[str]]) -> None:
    assert set(environment(name)) <= variables[name]


def test_the_survival_server_finds_the_attack_server(ports: dict[str, int]) -> None:
    assert environment("survival-server")["AFR_ATTACK_ADDRESS"] == f"attack-server:{ports['attack-server']}"


def test_folders_are_on_volumes() -> None:
    for name, variable in (("attack-worker", "AFR_STORE"), ("survival-server", "AFR_STATE")):
        mounts = [mount["mountPath"] for mount in container(name)["volumeMounts"]]
        folder = environment(name)[variable]
        assert folder is not None
        assert any(folder.startswith(f"{mount}/") for mount in mounts)
        assert "/tmp" in mounts


def test_the_probes_of_the_worker_ask_what_its_image_answers(
    instructions: Callable[[str], list[tuple[str, str]]],
) -> None:
    copied = [rest.split()[-1] for keyword, rest in instructions("Dockerfile.gpu") if keyword == "COPY"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        program, script, question = container("attack-worker")[probe]["exec"]["command"]
        assert program == "python"
        assert script in copied
        assert question == ("alive" if probe == "livenessProbe" else "ready")


def test_the_worker_stands_on_the_gpu_pool() -> None:
    spec, resources = pod("attack-worker"), container("attack-worker")["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_processes_may_end_before_they_are_killed() -> None:
    shutdown = float(environment("attack-worker")["AFR_SHUTDOWN_SECONDS"] or 0)
    assert pod("attack-worker")["terminationGracePeriodSeconds"] > shutdown + 10
    from attack_service.settings import ServeSettings

    assert pod("attack-server")["terminationGracePeriodSeconds"] > ServeSettings().grace_seconds + 10


def test_redis_writes_everything_down_and_evicts_nothing() -> None:
    lines = [line for line in (BASE / "valkey.conf").read_text().splitlines() if line and not line.startswith("#")]
    settings = dict(line.split(" ", 1) for line in lines)
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"
    mounts = [mount["mountPath"] for mount in container("redis")["volumeMounts"]]
    assert settings["dir"] in mounts
    assert mebibytes(container("redis")["resources"]["limits"]["memory"]) >= 2 * mebibytes(settings["maxmemory"])


def test_a_disruption_budget_lets_nodes_be_drained() -> None:
    for name, budget in of_kind("PodDisruptionBudget").items():
        assert budget["spec"]["selector"]["matchLabels"] == {COMPONENT: name}
        if least := budget["spec"].get("minAvailable"):
            assert least < WORKLOADS[name]["spec"]["replicas"]
        else:
            assert budget["spec"]["maxUnavailable"] >= 1


def test_network_policies_deny_by_default_and_allow_existing_ports(ports: dict[str, int]) -> None:
    policies = of_kind("NetworkPolicy")
    assert policies["nothing-by-default"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    expected = {**ports, "redis": container("redis")["ports"][0]["containerPort"]}
    for name in expected:
        spec = policies[name]["spec"]
        assert spec["podSelector"]["matchLabels"] == {COMPONENT: name}
        (rule,) = spec["ingress"]
        assert rule["ports"] == [{"protocol": "TCP", "port": expected[name]}]
    named = re.findall(rf"{COMPONENT}: (\S+)|values: \[(.*?)\]", (BASE / "network-policies.yaml").read_text())
    mentioned = {part.strip() for groups in named for group in groups for part in group.split(",") if part.strip()}
    assert mentioned <= set(WORKLOADS)


def test_the_schemas_of_kubernetes_accept_the_manifests(tool: Callable[[str, str], str]) -> None:
    files = [str(BASE / name) for name in KUSTOMIZATION["resources"]]
    program = tool("kubernetes-validate", "kubernetes-validate")
    checked = subprocess.run([program, "--strict", "--quiet", *files], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("overlay", ["base", "cpu"])
def test_kustomize_renders_everything_into_the_namespace(overlay: str) -> None:
    command = ["kubectl", "kustomize", str(BASE.parent / overlay)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    manifests = list(yaml.safe_load_all(rendered))
    assert all(m["metadata"].get("namespace") == "afr" for m in manifests if m["kind"] != "Namespace")
    (worker,) = (m for m in manifests if m["metadata"]["name"] == "attack-worker" and m["kind"] == "Deployment")
    spec = worker["spec"]["template"]["spec"]
    on_gpu = "nvidia.com/gpu" in str(spec["containers"][0]["resources"])
    assert on_gpu == ("nodeSelector" in spec) == ("tolerations" in spec) == (overlay == "base")
    (settings,) = (m for m in manifests if m["kind"] == "ConfigMap" and "attack-worker" in m["metadata"]["name"])
    assert settings["data"]["AFR_DEVICE"] == ("cuda" if overlay == "base" else "cpu")
    assert settings["data"]["AFR_STORE"]
