"""The manifests are valid, fit together, fit the settings, and keep to what the README promises."""

import base64
import json
import shutil
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.attach import AttachPort
from gateway.services import Services
from gateway.settings import GatewaySettings
from shared import identity_command
from shared.bootstrap import BootstrapSettings
from shared.brigade import COMMANDS
from shared.commands import settings_of
from tests.k8s.kustomize import Resource, build, containers_of, key_of
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
OVERLAYS = ("box", "cloud", "public")
KUBERNETES = "1.37"
CUSTOM_KINDS = {"ServiceMonitor", "PodMonitor"}
"""The Prometheus operator's, whose schema is not at hand: another test says what they pick."""
VARIABLES = {
    setting.variable
    for settings in (GatewaySettings, WorkerSettings, BootstrapSettings)
    for setting in settings_of(settings)
}
SCHEME = ("GATEWAY_", "WORKER_", "BOOTSTRAP_")
PART = "app.kubernetes.io/part-of"
NAME = "app.kubernetes.io/name"
POD = "statefulset.kubernetes.io/pod-name"
PODS = ("bootstrap", "gateway", "worker")
WORLD = "192.0.2.7"
"""Somewhere outside the cluster."""


@pytest.fixture(scope="module", params=OVERLAYS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay, with the keys and the addresses that k8s/README.md tells to make."""
    copied = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(
        ROOT / "k8s", copied, ignore=lambda _, names: {"keys", "swarm.env"} & set(names)
    )
    told = copied / "overlays" / ("box" if request.param == "box" else "cloud")
    for number in range(3):
        identity_command.main(["--file", str(told / "keys" / f"bootstrap-{number}")])
    (told / "swarm.env").write_text(
        "join=/dns4/bootstrap-0.bootstrap/tcp/4001/p2p/x\ndomain=swarm.example.org\n"
    )
    return copied / "overlays" / request.param


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[tuple[str, str], Resource]:
    """What the overlay comes to."""
    resources = build(folder)
    by_key = {key_of(resource): resource for resource in resources}
    assert len(by_key) == len(resources)
    return by_key


def gateways(made: dict[tuple[str, str], Resource]) -> Resource:
    """The gateways' workload: a Deployment, or a StatefulSet where each has a name of its own."""
    (only,) = [one for one in workloads(made) if one["metadata"]["name"] == "gateway"]
    return only


def workloads(made: dict[tuple[str, str], Resource]) -> list[Resource]:
    return [one for one in made.values() if containers_of(one)]


def container(made: dict[tuple[str, str], Resource], kind: str, name: str) -> Resource:
    (only,) = containers_of(made[kind, name])
    return only


def environment(container: Resource) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def test_every_manifest_is_valid_in_kubernetes_own_schema(
    made: dict[tuple[str, str], Resource],
):
    kinds = {kind for kind, _ in made}
    assert kinds - CUSTOM_KINDS == {
        *("Namespace", "Service", "StatefulSet", "Deployment", "HorizontalPodAutoscaler"),
        *("PodDisruptionBudget", "NetworkPolicy", "ConfigMap", "Secret"),
    }
    for (kind, _), resource in made.items():
        if kind not in CUSTOM_KINDS:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_the_schema_bites(made: dict[tuple[str, str], Resource]):
    broken = json.loads(json.dumps(gateways(made)))
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def kustomize(folder: Path) -> list[Resource]:
    """What the real one makes of a folder."""
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    if not shutil.which(command[0]):
        pytest.skip("neither kustomize nor kubectl is on the PATH")
    done = subprocess.run([*command, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def test_kustomize_itself_makes_the_same_of_an_overlay(
    folder: Path, made: dict[tuple[str, str], Resource]
):
    theirs = {key_of(resource): resource for resource in kustomize(folder)}
    assert set(theirs) == set(made)
    for key, resource in theirs.items():
        if key[0] == "Secret":  # theirs is broken into lines
            data = resource["data"].items()
            resource["data"] = {name: "".join(text.split()) for name, text in data}
        assert resource == made[key], key


def test_no_pod_has_rights_it_does_not_need(made: dict[tuple[str, str], Resource]):
    for workload in workloads(made):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for one in pod["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in one["resources"]["limits"]


def test_no_service_s_variables_are_taken_for_settings(made: dict[tuple[str, str], Resource]):
    for workload in workloads(made):
        assert workload["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_every_variable_is_a_setting_and_every_argument_a_command(
    made: dict[tuple[str, str], Resource],
):
    for workload in workloads(made):
        for one in containers_of(workload):
            ours = {name for name in environment(one) if name.startswith(SCHEME)}
            assert ours
            assert ours <= VARIABLES
            assert one["args"][0] in COMMANDS


def test_selectors_pick_pods_and_ports_have_names(made: dict[tuple[str, str], Resource]):
    pods = [labels for one in workloads(made) for labels in labels_of_pods(one)]
    for (kind, name), resource in made.items():
        selector = resource.get("spec", {}).get("selector")
        if selector and kind not in CUSTOM_KINDS:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= labels.items() for labels in pods), (kind, name)
    for workload in workloads(made):
        for one in containers_of(workload):
            named = {port["name"] for port in one["ports"]}
            for probe in ("startupProbe", "livenessProbe"):
                asked = one[probe].get("tcpSocket") or one[probe]["httpGet"]
                assert asked["port"] in named


def labels_of_pods(workload: Resource) -> list[dict[str, str]]:
    """As its pods have them: those of a StatefulSet also have their names, with a number each."""
    labels = workload["spec"]["template"]["metadata"]["labels"]
    name = workload["metadata"]["name"]
    numbers = range(3) if workload["kind"] == "StatefulSet" else ()
    return [labels, *(labels | {POD: f"{name}-{number}"} for number in numbers)]


def test_the_gateway_s_service_leads_to_its_port(made: dict[tuple[str, str], Resource]):
    (port,) = made["Service", "gateway"]["spec"]["ports"]
    (gateway,) = containers_of(gateways(made))
    assert port["targetPort"] in {one["name"] for one in gateway["ports"]}


def test_prometheus_is_told_of_services_and_pods_that_are_there(
    folder: Path, made: dict[tuple[str, str], Resource]
):
    assert (("ServiceMonitor", "gateway") in made) == (folder.name != "box")
    if folder.name == "box":
        return
    service = made["Service", "gateway"]
    monitor = made["ServiceMonitor", "gateway"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {one["name"] for one in service["spec"]["ports"]}
    pods = made["PodMonitor", "worker"]["spec"]
    template = made["Deployment", "worker"]["spec"]["template"]
    assert pods["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (worker,) = template["spec"]["containers"]
    assert pods["podMetricsEndpoints"][0]["port"] in {one["name"] for one in worker["ports"]}


def test_kubernetes_waits_longer_than_a_worker_drains(made: dict[tuple[str, str], Resource]):
    pod = made["Deployment", "worker"]["spec"]["template"]["spec"]
    grace = environment(pod["containers"][0])["WORKER_GRACE_SECONDS"]
    assert pod["terminationGracePeriodSeconds"] >= float(grace) + 20


def test_kubernetes_waits_longer_than_a_gateway_s_streams_may_take(
    made: dict[tuple[str, str], Resource],
):
    pod = gateways(made)["spec"]["template"]["spec"]
    drain = float(environment(pod["containers"][0])["GATEWAY_DRAIN_SECONDS"])
    streams = Services.shutdown_grace_seconds + 5
    assert pod["terminationGracePeriodSeconds"] > drain + streams


def test_every_bootstrap_node_has_a_key_of_its_own(made: dict[tuple[str, str], Resource]):
    keys = made["Secret", "bootstrap-keys"]["data"]
    assert set(keys) == {
        f"bootstrap-{n}" for n in range(made["StatefulSet", "bootstrap"]["spec"]["replicas"])
    }
    assert len(set(keys.values())) == len(keys)
    assert all(len(base64.b64decode(key).strip()) == 64 for key in keys.values())
    bootstrap = container(made, "StatefulSet", "bootstrap")
    assert environment(bootstrap)["BOOTSTRAP_IDENTITY"] == "/keys/$(POD_NAME)"


def test_gpus_are_asked_for_where_there_are_some(
    folder: Path, made: dict[tuple[str, str], Resource]
):
    limits = container(made, "Deployment", "worker")["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == (folder.name != "box")


def picks(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector picks a pod."""
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )


def permits(
    made: dict[tuple[str, str], Resource], way: str, pod: str, port: int, other: str
) -> bool:
    """Whether a policy of a pod's lets traffic through; `other` is a pod or an IP address."""
    labels = {NAME: pod, PART: "bucket-brigade"}
    end = "from" if way == "ingress" else "to"
    rules = [
        rule
        for (kind, _), policy in made.items()
        if kind == "NetworkPolicy" and picks(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get(way, [])
    ]
    return any(
        ("ports" not in rule or port in {one["port"] for one in rule["ports"]})
        and (end not in rule or any(is_meant(peer, other) for peer in rule[end]))
        for rule in rules
    )


def is_meant(peer: dict[str, Any], other: str) -> bool:
    """Whether a policy's peer is a pod of ours, or has an IP address in it."""
    if block := peer.get("ipBlock"):
        return is_in(block["cidr"], other) and not any(is_in(one, other) for one in block["except"])
    labels = {NAME: other, PART: "bucket-brigade"} if other in PODS else {}
    return "namespaceSelector" not in peer and picks(peer["podSelector"], labels)


def is_in(network: str, other: str) -> bool:
    """Whether `other` is an IP address of a network."""
    try:
        return ip_address(other) in ip_network(network)
    except ValueError:
        return False  # a pod's name


@pytest.mark.parametrize(
    ("one", "other", "port"),
    [
        ("gateway", "bootstrap", 4001),
        ("worker", "bootstrap", 4001),
        ("bootstrap", "bootstrap", 4001),
        ("gateway", "worker", 7000),
        ("worker", "worker", 7000),
        ("gateway", "worker", 7001),
        ("worker", "worker", 7001),
        ("bootstrap", "worker", 7001),
    ],
)
def test_the_swarm_may_talk_to_itself(
    one: str, other: str, port: int, made: dict[tuple[str, str], Resource]
):
    assert permits(made, "egress", one, port, other)
    assert permits(made, "ingress", other, port, one)


def test_the_world_reaches_what_volunteers_dial_and_no_more(
    folder: Path, made: dict[tuple[str, str], Resource]
):
    ports = {"gateway": (8000, 4002), "bootstrap": (4001,), "worker": (7000, 7001)}
    reached = {
        (pod, port)
        for pod in ports
        for port in ports[pod]
        if permits(made, "ingress", pod, port, WORLD)
    }
    volunteers_dial = {("gateway", 4002), ("bootstrap", 4001)}
    assert reached == {("gateway", 8000)} | (volunteers_dial if folder.name == "public" else set())


def test_models_may_be_fetched_and_nothing_else_is_dialled_outside(
    folder: Path, made: dict[tuple[str, str], Resource]
):
    is_public = folder.name == "public"
    assert permits(made, "egress", "worker", 443, WORLD)
    assert permits(made, "egress", "gateway", 443, WORLD)
    assert permits(made, "egress", "bootstrap", 443, WORLD) == is_public
    for pod in ("gateway", "worker", "bootstrap"):
        assert permits(made, "egress", pod, 7000, WORLD) == is_public  # volunteers are anywhere
        for address in ("10.96.0.1", "169.254.169.254", "192.168.0.1", "fd00::1"):
            assert not permits(made, "egress", pod, 7000, address), address


@pytest.mark.parametrize("folder", ["public"], indirect=True)
def test_every_pod_that_volunteers_dial_has_a_service_and_a_name_of_its_own(
    made: dict[tuple[str, str], Resource],
):
    """Ready or not: the workers that make a gateway ready may be those that attach to it."""
    scaler = made["HorizontalPodAutoscaler", "gateway"]["spec"]
    assert scaler["scaleTargetRef"]["kind"] == gateways(made)["kind"] == "StatefulSet"
    for name, port, count in (
        ("gateway", "attach", scaler["maxReplicas"]),
        ("bootstrap", "dht", made["StatefulSet", "bootstrap"]["spec"]["replicas"]),
    ):
        (pod,) = containers_of(made["StatefulSet", name])
        for number in range(count):
            service = made["Service", f"{name}-{number}"]["spec"]
            assert (service["type"], service["publishNotReadyAddresses"]) == ("LoadBalancer", True)
            assert service["externalTrafficPolicy"] == "Local"
            assert service["selector"] == {NAME: name, POD: f"{name}-{number}"}
            (entry,) = service["ports"]
            (behind,) = [one for one in pod["ports"] if one["name"] == entry["targetPort"]]
            assert (entry["targetPort"], entry["port"]) == (port, behind["containerPort"])
        assert ("Service", f"{name}-{count}") not in made


@pytest.mark.parametrize("folder", ["public"], indirect=True)
def test_what_pods_announce_is_what_a_gateway_and_a_node_of_that_name_take(
    made: dict[tuple[str, str], Resource],
):
    (gateway,) = containers_of(gateways(made))
    told = expanded(gateway, POD_NAME="gateway-1", DOMAIN="swarm.example.org")
    settings = GatewaySettings.model_validate(
        {
            name: told[f"GATEWAY_{name.upper()}"]
            for name in ("attach_host", "attach_url", "attach_tls")
        }
    )
    port = AttachPort.of(settings)
    assert port.url == f"wss://gateway-1.swarm.example.org:{settings.attach_port}"
    assert port.fingerprint  # without an authority's certificate, by the announcement
    (bootstrap,) = containers_of(made["StatefulSet", "bootstrap"])
    told = expanded(bootstrap, POD_NAME="bootstrap-2", DOMAIN="swarm.example.org")
    assert told["BOOTSTRAP_PUBLIC_ADDRESS"] == "bootstrap-2.swarm.example.org"
    worker = environment(container(made, "Deployment", "worker"))
    assert worker["WORKER_ATTACH"] == "on"  # nobody outside dials a pod


def expanded(container: Resource, **known: str) -> dict[str, str]:
    """A container's variables; in the value of one stand those before it, as for Kubernetes."""
    told: dict[str, str] = {}
    for one in container["env"]:
        value = str(known.get(one["name"], one.get("value", "")))
        for name, text in told.items():
            value = value.replace(f"$({name})", text)
        told[one["name"]] = value
    return told
