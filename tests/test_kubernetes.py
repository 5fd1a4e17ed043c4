"""The manifests in docs/kubernetes: valid, and they fit each other, the image, the page and the code.

Nothing here asks a cluster. Kubernetes' own schemas come with a package; of KubeRay's there is a list of fields below,
and its pod templates are checked as pods.
"""

import argparse
import asyncio
import re
import shlex
import subprocess
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml

from django_ray_worker.main import add_arguments
from django_ray_worker.showing.endpoint import ANSWER_SECONDS, Endpoint
from tests.supervisors import ROOT

FOLDER = ROOT / "docs" / "kubernetes"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
# The oldest that has sidecars, and the newest that the package knows.
VERSIONS = ["1.29", kubernetes_validate.latest_version()]
KUBERAY = {
    "spec": {
        "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
        "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "upgradeStrategy", "workerGroupSpecs",
    },
    "authOptions": {"enableK8sTokenAuth", "mode", "secretName"},
    "upgradeStrategy": {"type"},
    "headGroupSpec": {
        "enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template",
    },
    "workerGroupSpec": {
        "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams",
        "replicas", "resources", "scaleStrategy", "suspend", "template",
    },
}  # fmt: skip
GOODBYE_SECONDS = 20  # That worker-modes.md asks for besides the grace.

DOCUMENTS = [document for file in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(file.read_text())]


def of_kind(kind, name=None):
    (found,) = [one for one in DOCUMENTS if one["kind"] == kind and name in {None, one["metadata"]["name"]}]
    return found


CLUSTER = of_kind("RayCluster")
HEAD, WORKERS = CLUSTER["spec"]["headGroupSpec"], CLUSTER["spec"]["workerGroupSpecs"]
SUPERVISOR = of_kind("Deployment")["spec"]["template"]
MIGRATION = of_kind("Job")["spec"]["template"]
RAY_PODS = [HEAD["template"], *[group["template"] for group in WORKERS], SUPERVISOR]
PODS = [*RAY_PODS, MIGRATION]
(NODE,) = SUPERVISOR["spec"]["initContainers"]
(LISTEN,) = SUPERVISOR["spec"]["containers"]
HEAD_ADDRESS = f"{CLUSTER['metadata']['name']}-head-svc:6379"


def containers(pod):
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def ray_start(arguments):
    """Return what `ray start` understands; nothing is started."""
    from ray.scripts.scripts import start

    return start.make_context("ray start", arguments).params


def listen_options():
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--settings")
    parser.add_argument("--pythonpath")
    add_arguments(parser)
    return parser.parse_args(LISTEN["args"])


def secrets_of_the_page():
    """Return name -> keys of the secrets that the page has the reader make."""
    commands = [shlex.split(line) for line in PAGE.replace("\\\n", " ").splitlines() if "create secret generic" in line]
    return {
        command[4]: {part.removeprefix("--from-literal=").partition("=")[0] for part in command[5:]}
        for command in commands
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "document", [one for one in DOCUMENTS if one["kind"] != "RayCluster"], ids=lambda one: one["kind"]
)
def test_a_manifest_is_valid(document, version):
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_ray_cluster_is_made_of_fields_that_there_are_and_of_valid_pods(version):
    spec = CLUSTER["spec"]
    assert spec.keys() <= KUBERAY["spec"]
    assert spec["authOptions"].keys() <= KUBERAY["authOptions"]
    assert spec["upgradeStrategy"].keys() <= KUBERAY["upgradeStrategy"]
    assert HEAD.keys() <= KUBERAY["headGroupSpec"]
    for group in WORKERS:
        assert group.keys() <= KUBERAY["workerGroupSpec"]
    for template in [HEAD["template"], *[group["template"] for group in WORKERS]]:
        pod = {**template, "apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": "pod"}}
        kubernetes_validate.validate(pod, version, strict=True)


def test_ray_understands_the_options_that_it_is_started_with():
    for group in [HEAD, *WORKERS]:
        parameters = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        ray_start(["--block", *parameters])
    assert HEAD["rayStartParams"]["num-cpus"] == "0"


def test_the_node_beside_the_supervisor_joins_the_same_cluster_and_runs_nothing():
    (script,) = NODE["args"]
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    (command,) = re.findall(r"ray start (.*) &$", script, re.MULTILINE)
    options = ray_start(shlex.split(command))
    assert (options["address"], options["num_cpus"], options["block"]) == (HEAD_ADDRESS, 0, True)
    (shm,) = [volume["emptyDir"] for volume in SUPERVISOR["spec"]["volumes"] if volume["name"] == "shm"]
    assert options["object_store_memory"] < int(shm["sizeLimit"].removesuffix("Mi")) << 20


def test_the_supervisor_is_started_with_options_that_it_has():
    options = listen_options()
    assert LISTEN["command"] == ["django-ray-listen"]
    assert options.cluster == HEAD_ADDRESS
    assert not options.burst


def test_a_driver_shares_with_its_raylet_what_it_needs():
    assert SUPERVISOR["spec"]["shareProcessNamespace"]
    assert NODE["volumeMounts"] == LISTEN["volumeMounts"]
    assert {mount["mountPath"] for mount in LISTEN["volumeMounts"]} == {"/tmp/ray", "/dev/shm"}
    assert {mount["name"] for mount in LISTEN["volumeMounts"]} == {one["name"] for one in SUPERVISOR["spec"]["volumes"]}
    assert NODE["env"] == LISTEN["env"]
    assert NODE["securityContext"] == LISTEN["securityContext"]


def test_the_node_outlives_the_supervisor_and_the_pod_waits_for_both():
    assert NODE["restartPolicy"] == "Always"
    assert SUPERVISOR["spec"]["terminationGracePeriodSeconds"] >= listen_options().grace + GOODBYE_SECONDS


async def test_the_probes_ask_what_the_supervisor_answers():
    (port,) = LISTEN["ports"]
    assert port["containerPort"] == listen_options().metrics_port
    endpoint = Endpoint("127.0.0.1", 0)
    monitor = SimpleNamespace(figures=lambda: None, obstacle=lambda: "", ailment=lambda: "")
    answers = []
    with endpoint.serving(monitor):
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = LISTEN[kind]["httpGet"]
            assert probe["port"] == port["name"]
            environ = {"PATH_INFO": probe["path"]}
            await asyncio.to_thread(endpoint._answer, environ, lambda status, _: answers.append(status))
    assert answers == ["200 OK"] * 3
    # Or a slow answer of the supervisor itself would never be heard.
    assert min(LISTEN[kind]["timeoutSeconds"] for kind in ("livenessProbe", "readinessProbe")) > ANSWER_SECONDS


def test_prometheus_finds_the_metrics():
    annotations = SUPERVISOR["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(listen_options().metrics_port)
    assert annotations["prometheus.io/path"] == "/metrics"


def test_every_secret_is_one_that_the_page_makes():
    made = secrets_of_the_page()
    for pod in PODS:
        for container in containers(pod):
            for source in container.get("envFrom", []):
                assert source["secretRef"]["name"] in made
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["key"] in made[reference["name"]]


def test_the_token_of_the_supervisor_is_that_of_the_cluster():
    variables = {variable["name"]: variable for variable in LISTEN["env"]}
    auth = CLUSTER["spec"]["authOptions"]
    assert variables["RAY_AUTH_MODE"]["value"] == auth["mode"] == "token"
    # The key that KubeRay wants.
    wanted = {"name": auth["secretName"], "key": "auth_token"}
    assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == wanted


def test_whatever_runs_code_of_the_project_has_the_variables_that_its_settings_read():
    sources = [ROOT / "example" / "project" / "settings.py", ROOT / "example" / "devpostgres.py"]
    read = {name for file in sources for name in re.findall(r'os\.environ\.get\("(\w+)"', file.read_text())}
    (project,) = {source["secretRef"]["name"] for pod in PODS for one in containers(pod) for source in one["envFrom"]}
    assert {"DATABASE_URL", "SECRET_KEY"} <= secrets_of_the_page()[project] <= read


def test_one_image_runs_everything_with_the_ray_that_is_locked():
    (image,) = {container["image"] for pod in PODS for container in containers(pod)}
    assert f"-t {image} ." in DOCKERFILE
    assert f"-t {image} ." in PAGE
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\nray=={CLUSTER['spec']['rayVersion']} " in lock


def test_nothing_runs_as_root_or_can_become_it():
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    for pod in PODS:
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["securityContext"]["runAsUser"] == int(user) > 0
        for container in containers(pod):
            may = container["securityContext"]
            assert may == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_everything_has_bounds():
    for pod in PODS:
        for container in containers(pod):
            resources = container["resources"]
            assert resources["requests"].keys() == {"cpu", "memory"}
            assert resources["limits"]["memory"] == resources["requests"]["memory"]


def test_only_ray_nodes_reach_ray_nodes_and_prometheus_the_metrics():
    ray, metrics = of_kind("NetworkPolicy", "ray")["spec"], of_kind("NetworkPolicy", "supervisor-metrics")["spec"]
    wanted = ray["podSelector"]["matchLabels"]
    assert wanted
    assert [pod for pod in PODS if wanted.items() <= pod.get("metadata", {}).get("labels", {}).items()] == RAY_PODS
    assert ray["ingress"] == [{"from": [{"podSelector": ray["podSelector"]}]}]
    assert metrics["podSelector"]["matchLabels"].items() <= SUPERVISOR["metadata"]["labels"].items()
    (rule,) = metrics["ingress"]
    assert [port["port"] for port in rule["ports"]] == [port["name"] for port in LISTEN["ports"]]


def test_the_migration_ends():
    assert MIGRATION["spec"]["restartPolicy"] in {"Never", "OnFailure"}
    assert MIGRATION["spec"]["containers"][0]["command"][1:3] == ["manage.py", "migrate"]


def test_the_deployment_selects_its_pods():
    selector = of_kind("Deployment")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= SUPERVISOR["metadata"]["labels"].items()


def test_the_page_applies_every_manifest():
    assert set(re.findall(r"docs/kubernetes/(\w+\.yaml)", PAGE)) == {file.name for file in FOLDER.glob("*.yaml")}
