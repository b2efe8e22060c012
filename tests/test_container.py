"""The container images, as far as they can be tested without Docker: lint, files, packages and the entry point."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.settings.serve import ServeConfig
from samples import REPOSITORY

DOCKERFILE = REPOSITORY / "deploy" / "Dockerfile"
TRAINING = REPOSITORY / "deploy" / "Dockerfile.train"
BUNDLE = REPOSITORY / "deploy" / "Dockerfile.bundle"
LOCK = REPOSITORY / "deploy" / "requirements.lock"
TRAINING_LOCK = REPOSITORY / "src" / "pneumoscope" / "aws" / "client" / "train.lock"
TOOLS = Path(sys.executable).parent
UV = REPOSITORY / ".venv" / "tools" / "bin" / "uv"


def instructions(dockerfile: Path = DOCKERFILE) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile in order, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def last_stage(dockerfile: Path = DOCKERFILE) -> dict[str, str]:
    """The last one of each kind of instruction in the final stage."""
    found = instructions(dockerfile)
    start = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return dict(found[start:])


def pins(path: Path) -> set[str]:
    """The packages of a lock file, with their versions."""
    return set(re.findall(r"^([a-z0-9-]+==[\w.]+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("dockerfile", [DOCKERFILE, TRAINING, BUNDLE], ids=["service", "training", "bundle"])
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    done = subprocess.run([TOOLS / "hadolint", dockerfile], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == ""


def test_the_service_image_is_unprivileged_and_has_a_health_check() -> None:
    stage = last_stage()
    assert stage["ARG"] == "RUN_AS=65532:65532"
    assert stage["USER"] == "${RUN_AS}"
    assert json.loads(stage["ENTRYPOINT"]) == ["pneumoscope"]
    assert json.loads(stage["CMD"]) == ["serve"]
    assert "/readyz" in stage["HEALTHCHECK"]
    assert stage["EXPOSE"] == "8080"
    assert "not a medical device" in stage["LABEL"]
    assert len([word for word, _ in instructions() if word == "FROM"]) == 2


@pytest.mark.parametrize("dockerfile", [DOCKERFILE, TRAINING], ids=["service", "training"])
def test_onnx_runtime_keeps_no_record_of_its_use(dockerfile: Path, tmp_path: Path) -> None:
    """Since 1.32 it writes a database into the home folder when it is imported, and has code to send that."""
    settings = dict(re.findall(r"(ORT_\w+|PYTHON\w+)=(\S+)", last_stage(dockerfile)["ENV"]))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | settings
    subprocess.run([sys.executable, "-c", "import onnxruntime"], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_the_training_image_starts_a_training_job_as_root() -> None:
    stage = last_stage(TRAINING)
    assert json.loads(stage["ENTRYPOINT"]) == ["python", "-m", "pneumoscope.aws.job"]
    assert json.loads(stage["CMD"]) == ["train"]
    assert (
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in stage["ENV"]
    )  # nvidia-smi, which counts the GPUs, needs these
    assert "not a medical device" in stage["LABEL"]
    assert "USER" not in stage


@pytest.mark.parametrize("dockerfile", [DOCKERFILE, TRAINING], ids=["service", "training"])
def test_copied_files_exist_and_are_not_ignored(dockerfile: Path) -> None:
    ignored = dockerfile.with_name(f"{dockerfile.name}.dockerignore").read_text()
    included = re.findall(r"^!(.+)$", ignored, re.MULTILINE)
    copied = [
        name
        for word, rest in instructions(dockerfile)
        if word == "COPY" and "--from" not in rest
        for name in rest.split()[:-1]
    ]
    assert sorted(copied) == sorted(included)
    assert all((REPOSITORY / name).exists() for name in copied)


def test_the_service_image_has_few_packages_in_tested_versions() -> None:
    assert pins(LOCK) < pins(REPOSITORY / "requirements.lock")
    assert pins(LOCK.with_name("build.lock")) < pins(REPOSITORY / "requirements.lock")
    names = {pin.partition("==")[0] for pin in pins(LOCK)}
    assert names >= {"onnxruntime", "fastapi", "uvicorn", "pydicom"}
    assert not names & {"torch", "timm", "lightning", "scikit-learn", "matplotlib", "pytest"}


def test_the_training_image_has_packages_in_tested_versions() -> None:
    training = pins(TRAINING_LOCK)
    assert training < pins(REPOSITORY / "requirements.lock")
    names = {pin.partition("==")[0] for pin in training}
    assert names >= {"torch", "timm", "lightning", "onnxruntime", "pydicom", "nvidia-nccl-cu13"}
    assert not names & {"pytest", "moto", "mypy", "ray", "playwright", "boto3"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the image's packages and our wheel, built as in the Dockerfile."""
    if not UV.exists():
        pytest.skip("`make` has not set up .venv here")
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)
    for parent in folder.parents:
        if parent.is_relative_to("/tmp") and parent != Path("/tmp") and os.getuid() == 0:
            parent.chmod(0o755)
    place = folder / "opt"
    quietly = {"check": True, "capture_output": True}
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, place], **quietly)  # type: ignore[call-overload]
    environment = os.environ | {"VIRTUAL_ENV": str(place)}
    subprocess.run(
        [TOOLS / "hatchling", "build", "--target", "wheel", "--directory", folder], cwd=REPOSITORY, **quietly
    )  # type: ignore[call-overload]
    (wheel,) = folder.glob("*.whl")
    for arguments in (["sync", "--require-hashes", str(LOCK)], ["install", "--no-deps", str(wheel)]):
        subprocess.run([UV, "pip", *arguments], env=environment, **quietly)  # type: ignore[call-overload]
    return place


def succeeds_eventually(command: list[str], environment: dict[str, str]) -> bool:
    """Whether the command succeeds within 200 attempts."""
    return any(
        subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0 for _ in range(200)
    )


def can_run_as_another_user(path: Path) -> bool:
    """Whether we can start processes as another user who can read the interpreter; it may be in root's home folder."""
    real = path.resolve()
    return os.getuid() == 0 and all(folder.stat().st_mode & 0o001 for folder in (real, *real.parents))


def call_as_sagemaker(port: int) -> None:
    """Follow SageMaker's container contract: /ping answers within 2 s, /invocations takes a film's bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    connection.request("GET", "/ping")
    with connection.getresponse() as reply:
        assert reply.status == 200
        reply.read()
    film_bytes = encode_jpeg(film("virus", patient=1))
    connection.request("POST", "/invocations", film_bytes, {"Content-Type": "application/x-image"})
    with connection.getresponse() as reply:
        assert json.load(reply)["status"] in ("answered", "abstained")
    connection.close()


def test_sagemakers_time_limits_are_kept() -> None:
    """A call may last a minute, of which receiving the body takes at most half; after SIGTERM there are 30 seconds."""
    settings = dict(re.findall(r"(PNEUMOSCOPE_\w+)=(\S+)", last_stage()["ENV"]))
    assert float(settings["PNEUMOSCOPE_READ_SECONDS"]) <= 30
    assert settings["PNEUMOSCOPE_PORT"] == "8080"
    assert json.loads(last_stage()["ENTRYPOINT"]) == ["pneumoscope"]
    assert json.loads(last_stage()["CMD"]) == ["serve"]  # the argument that SageMaker passes
    assert ServeConfig(bundle=Path("bundle")).drain_seconds < 30


def test_the_entry_point_serves_as_in_the_image(image: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """With the image's command, environment, user and stop signal, in a folder that the user cannot write to."""
    stage = last_stage()
    settings = dict(re.findall(r"(PNEUMOSCOPE_\w+|PYTHON\w+)=(\S+)", stage["ENV"]))
    assert settings["PNEUMOSCOPE_BUNDLE"] == "/opt/ml/model"
    assert settings["PNEUMOSCOPE_HOST"] == "0.0.0.0"
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:  # files at its top, as SageMaker expects it
        packed.add(tiny_bundle, arcname=".")
    place = image.parent / "model"
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data")
    settings |= {"PNEUMOSCOPE_BUNDLE": str(place), "PNEUMOSCOPE_PORT": "0", "PATH": f"{image}/bin:/usr/bin:/bin"}
    as_user = (
        {"user": 65532, "group": 65532, "extra_groups": []} if can_run_as_another_user(image / "bin" / "python") else {}
    )
    command = [f"{image}/bin/{json.loads(stage['ENTRYPOINT'])[0]}", *json.loads(stage["CMD"])]
    process = subprocess.Popen(command, env=settings, cwd="/", stderr=subprocess.PIPE, **as_user)  # type: ignore[call-overload]
    try:
        port = int(re.findall(rb":(\d+)/; Ctrl-C", process.stderr.readline())[0])
        health = json.loads(stage["HEALTHCHECK"].partition("CMD ")[2])
        assert succeeds_eventually(health, settings | {"PNEUMOSCOPE_PORT": str(port)})
        call_as_sagemaker(port)
        process.send_signal(getattr(signal, stage["STOPSIGNAL"]))
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.stderr.close()
