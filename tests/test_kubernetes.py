"""The manifests of deploy/kubernetes: valid for Kubernetes' own schemas, and true of the image and the service."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.settings.serve import TOKEN_VARIABLE, ServeConfig
from samples import REPOSITORY
from service import Service, serving
from test_container import can_run_as_another_user, last_stage

FOLDER = REPOSITORY / "deploy" / "kubernetes"
NAMES = [path.name for path in sorted(FOLDER.glob("*.yaml")) if path.name != "kustomization.yaml"]
# The oldest that upstream still maintained in October 2025, and the newest that the package knows.
VERSIONS = ("1.31", kubernetes_validate.latest_version())
TOKEN = "a-token-for-the-tests"
FILM = encode_jpeg(film("virus", patient=2, size=(200, 240)))
USER = 65532


def read(name: str) -> dict[str, Any]:
    """A file's single document."""
    document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return document


DEPLOYMENT = read("deployment.yaml")["spec"]
POD = DEPLOYMENT["template"]["spec"]
(CONTAINER,) = POD["containers"]
PROBES = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_is_valid_and_has_no_unknown_field(name: str, version: str) -> None:
    kubernetes_validate.validate(read(name), version, strict=True)


def test_the_schemas_find_a_misspelt_field_and_a_wrong_value() -> None:
    for path, value in (("readOnlyRootFileSystem", True), ("readOnlyRootFilesystem", "yes")):
        wrong = copy.deepcopy(read("deployment.yaml"))
        wrong["spec"]["template"]["spec"]["containers"][0]["securityContext"][path] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[1], strict=True)


def test_kustomize_takes_every_manifest_and_no_other() -> None:
    assert sorted(read("kustomization.yaml")["resources"]) == NAMES


def test_every_object_is_about_the_same_pods() -> None:
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    deployment, service = read("deployment.yaml"), read("service.yaml")["spec"]
    budget, policy = read("disruption-budget.yaml")["spec"], read("network-policy.yaml")["spec"]
    for selector in (DEPLOYMENT["selector"], budget["selector"], policy["podSelector"]):
        assert selector["matchLabels"] == labels
    assert service["selector"] == labels
    scaled = read("autoscaler.yaml")["spec"]["scaleTargetRef"]
    assert scaled == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }


def test_replicas_are_the_autoscalers_and_one_may_be_missing() -> None:
    scale, budget = read("autoscaler.yaml")["spec"], read("disruption-budget.yaml")["spec"]
    assert "replicas" not in DEPLOYMENT, "applying the manifest would set back what the autoscaler chose"
    assert scale["metrics"][0]["resource"]["name"] == "cpu"
    assert "cpu" in CONTAINER["resources"]["requests"], "utilization is a share of the request"
    assert 0 < budget["maxUnavailable"] < scale["minReplicas"], "a drained node must neither wait nor end the service"


def test_ports_agree_with_the_image() -> None:
    settings = dict(re.findall(r"(PNEUMOSCOPE_\w+)=(\S+)", last_stage()["ENV"]))
    (port,) = CONTAINER["ports"]
    assert str(port["containerPort"]) == settings["PNEUMOSCOPE_PORT"] == last_stage()["EXPOSE"]
    (served,) = read("service.yaml")["spec"]["ports"]
    (entry,) = read("network-policy.yaml")["spec"]["ingress"]
    named = [served["targetPort"], entry["ports"][0]["port"]]
    assert named + [CONTAINER[f"{name}Probe"]["httpGet"]["port"] for name in PROBES] == [port["name"]] * 5


def test_the_pod_runs_the_images_command_as_the_images_user() -> None:
    stage, context = last_stage(), POD["securityContext"]
    assert stage["ARG"] == f"RUN_AS={context['runAsUser']}:{context['runAsGroup']}" == f"RUN_AS={USER}:{USER}"
    assert CONTAINER["args"] == json.loads(stage["CMD"])
    assert "command" not in CONTAINER, "it would replace the image's entry point"
    bundle = last_stage(REPOSITORY / "deploy" / "Dockerfile.bundle")
    settings = dict(re.findall(r"(PNEUMOSCOPE_\w+)=(\S+)", stage["ENV"]))
    assert bundle["COPY"].split()[-1] == settings["PNEUMOSCOPE_BUNDLE"]
    assert not {"USER", "ENTRYPOINT", "CMD"} & set(bundle)


def test_the_pod_has_no_privileges() -> None:
    """The restricted profile of kubernetes.io/docs/concepts/security/pod-security-standards, and more than that."""
    context = CONTAINER["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["privileged"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(POD)
    assert all("emptyDir" in volume for volume in POD["volumes"])
    policy = read("network-policy.yaml")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []


def test_a_stopped_pod_has_time_to_finish_its_requests() -> None:
    pause, drain = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"], ServeConfig(bundle=Path("b")).drain_seconds
    assert POD["terminationGracePeriodSeconds"] > pause + drain


def test_the_liveness_probe_spares_a_replica_that_starts_or_is_busy() -> None:
    """Liveness must not kill what startup still waits for, nor what merely works at its limit."""
    assert PROBES == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}
    live = CONTAINER["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] >= 60


# --- the running service


@pytest.fixture(scope="module")
def replica(tiny_bundle: Path) -> Iterator[Service]:
    """The service with the manifest's variables."""
    (variable,) = CONTAINER["env"]
    assert variable["name"] == TOKEN_VARIABLE
    with serving(tiny_bundle, environment={TOKEN_VARIABLE: TOKEN}) as running:
        yield running


@pytest.mark.slow
def test_every_probe_is_answered_without_the_token(replica: Service) -> None:
    for path in PROBES.values():
        assert replica.get(path).status == HTTPStatus.OK, path
    assert replica.post("/v1/predictions", FILM).status == HTTPStatus.UNAUTHORIZED


@pytest.mark.slow
def test_no_address_needs_what_an_earlier_request_left_behind(replica: Service) -> None:
    """Requests can go to any replica, so no address must begin work whose result another address gives later."""
    document = replica.get("/openapi.json").json()
    used = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert {path for method, path in used if method != "get"} == {"/v1/predictions", "/invocations"}
    assert not [path for _, path in used if "{" in path], "it names something that an earlier request made"


def confined(writable: Path | None) -> tuple[str, ...]:
    """The prefix of a command that runs as in the pod: read-only file system, no capabilities, the image's user.

    `writable` is a folder on which the volume is mounted; None mounts no volume. If the interpreter is in a folder
    that other users cannot read, such as root's home, the user stays root, who has no capabilities then either.
    """
    limit = POD["volumes"][0]["emptyDir"]["sizeLimit"].removesuffix("i").lower()
    volume = f'mount -t tmpfs -o size={limit},mode=1777 none "$0" && ' if writable else ""
    bare = "--inh-caps=-all --bounding-set=-all --no-new-privs"
    user = f"--reuid {USER} --regid {USER} --clear-groups" if can_run_as_another_user(Path(sys.executable)) else ""
    script = f'{volume}mount -o remount,bind,ro / && exec setpriv {user} {bare} "$@"'
    return ("unshare", "--mount", "sh", "-c", script, str(writable))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_service_runs_with_a_read_only_file_system(workers: int, tiny_bundle: Path, tmp_path: Path) -> None:
    """One process writes nowhere; several share their metrics in the volume."""
    assert CONTAINER["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    if os.getuid() or not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("only root can make the file system read-only, with unshare and setpriv")
    for parent in (tmp_path, *tmp_path.parents, tiny_bundle, *tiny_bundle.parents):
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    volume = tmp_path / "tmp"
    volume.mkdir()
    within = confined(volume if workers > 1 else None)
    write = [sys.executable, "-c", f"open({str(REPOSITORY / 'written')!r}, 'w')"]
    tried = subprocess.run([*within, *write], capture_output=True, text=True, check=False)
    if "Read-only file system" not in tried.stderr:
        pytest.skip(f"a process cannot be confined here: {tried.stderr[-300:]}")
    environment = {"TMPDIR": str(volume), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    with serving(tiny_bundle, "--workers", workers, environment=environment, within=within) as running:
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        assert ("--reuid" not in within[4]) or re.search(rf"^Uid:\s+{USER}\s", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        # A worker that is not ready yet answers 503.
        statuses = (running.post("/v1/predictions", FILM).status for _ in range(1000))
        assert next(status for status in statuses if status != HTTPStatus.SERVICE_UNAVAILABLE) == HTTPStatus.OK
        assert "pneumoscope_predictions_total" in running.get("/metrics").body.decode()
        assert running.stop() == 0


@pytest.mark.slow
def test_memory_stays_within_what_the_pod_requests() -> None:
    """With the bundle that ships and 24 films of a detector's size, one after another."""
    requested = int(CONTAINER["resources"]["requests"]["memory"].removesuffix("Mi"))
    large = encode_jpeg(film("virus", patient=2, size=(2000, 2400)))
    with serving(None) as running:
        for _ in range(24):
            assert running.post("/v1/predictions", large).status == HTTPStatus.OK
        assert running.memory() < requested
