"""`pneumoscope serve` as a process: rules, tokens, workers, its log of decisions, signals and wrong usage."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

import pytest

from pneumoscope.contract import load_contract, save_contract
from pneumoscope.models import SHIPPED
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.settings.serve import ServeConfig
from service import Service, problem, samples_of, serving

FILM = encode_jpeg(film("virus", patient=2, size=(200, 240)))
TOKEN = "a-token-for-the-tests"


def test_the_service_has_a_default_rule(tiny_bundle: Path, tmp_path: Path) -> None:
    """A request to /v1/predictions can choose another rule; a request of SageMaker cannot."""
    with serving(tiny_bundle, "--coverage", 0.99, "--keep-log", tmp_path / "log") as service:
        for path, coverage in (
            ("/v1/predictions", 0.99),
            ("/invocations", 0.99),
            ("/invocations?coverage=0.9", 0.99),
            ("/v1/predictions?coverage=0.9", 0.9),
        ):
            assert service.post(path, FILM).json()["coverage"] == coverage
        assert service.post("/v1/predictions?operating_point=sensitivity-0.95", FILM).json()["coverage"] is None
    assert [json.loads(line)["coverage"] for line in (tmp_path / "log").read_text().splitlines()] == [
        0.99,
        0.99,
        0.99,
        0.9,
        None,
    ]
    with serving(tiny_bundle, "--operating-point", "specificity-0.95") as service:
        for path, status in (("/v1/predictions", "answered"), ("/v1/predictions?coverage=0.99", "abstained")):
            assert service.post(path, FILM).json()["status"] == status


def test_a_token_is_required(tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with serving(tiny_bundle, "--token-file", file) as service:
        for path in ("/", "/ping", "/readyz", "/docs", "/static/page.js"):
            assert service.get(path).status == HTTPStatus.OK
        for path in ("/v1/model", "/metrics"):
            assert service.get(path).status == HTTPStatus.UNAUTHORIZED
        for wrong in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {TOKEN}"}):
            reply = service.post("/v1/predictions", FILM, **wrong)
            assert reply.status == HTTPStatus.UNAUTHORIZED
            assert reply.headers["www-authenticate"] == "Bearer"
            problem(reply)
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert service.post("/v1/predictions", FILM, **right).status == HTTPStatus.OK
        assert service.post("/invocations", FILM, **right).status == HTTPStatus.OK
        assert TOKEN not in service.log


def test_several_workers_act_as_one_service(tiny_bundle: Path, tmp_path: Path) -> None:
    kept = tmp_path / "decisions.jsonl"
    environment = {"PNEUMOSCOPE_TOKEN": TOKEN}
    right = {"Authorization": f"Bearer {TOKEN}"}
    options = ("--workers", 2, "--keep-log", kept)
    with serving(tiny_bundle, *options, environment=environment) as service:
        assert service.post("/v1/predictions", FILM).status == HTTPStatus.UNAUTHORIZED
        await_workers(service, 2, **right)
        for _ in range(12):
            assert service.post("/v1/predictions", FILM, **right).status == HTTPStatus.OK
        shown = samples_of(service.get("/metrics", **right).body.decode())
        counted = [value for key, value in shown.items() if key.startswith("pneumoscope_predictions_total{")]
        assert sum(counted) == 12
        assert service.stop() == 0
    assert len(kept.read_text().splitlines()) == 12


def test_decisions_are_logged_with_keep_log(tiny_bundle: Path, tmp_path: Path) -> None:
    kept = tmp_path / "decisions.jsonl"
    with serving(tiny_bundle, "--keep-log", kept) as service:
        first = service.post("/v1/predictions", FILM)
        service.post("/v1/predictions", b"words")
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [line["status"] for line in lines] == ["answered", "rejected"]
    assert lines[0]["sha256"] == hashlib.sha256(FILM).hexdigest()
    assert lines[0]["request_id"] == first.headers["x-request-id"]
    assert lines[0]["probabilities"] == first.json()["probabilities"]
    assert kept.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_decision_that_cannot_be_logged_is_withheld(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--keep-log", "/dev/full") as service:
        reply = service.post("/v1/predictions", FILM)
    assert reply.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert "cannot be written" in problem(reply)["detail"]


def test_a_bundle_that_does_not_verify_is_not_served(own_bundle: Path, command: Callable[..., SimpleNamespace]) -> None:
    contract = load_contract(own_bundle)
    calibration = contract.calibration.model_copy(update={"scale": dict.fromkeys(contract.classes, 1 / 3)})
    save_contract(contract.model_copy(update={"calibration": calibration}), own_bundle)
    for workers in (1, 2):
        done = command("serve", "--bundle", own_bundle, "--port", 0, "--workers", workers)
        assert done.code == 1
        assert "golden case" in done.err
        assert "Traceback" not in done.err


def test_wrong_usage_is_refused_with_an_explanation(
    tiny_bundle: Path, tmp_path: Path, command: Callable[..., SimpleNamespace]
) -> None:
    token = tmp_path / "token"
    token.write_bytes(b"open\xffsesame")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for options, words in (
            (["--port", taken.getsockname()[1]], "choose another --host or --port"),
            (["--host", "203.0.113.9"], "cannot listen on 203.0.113.9"),
            (["--token-file", token], "at least 16 characters"),
            (["--keep-log", tmp_path / "none" / "log", "--workers", 2], "cannot be kept"),
            (["--cors-origin", "pacs.example"], "'pacs.example' is not a web origin; write *, or one without a path"),
            (["--as-endpoint", "bad name"], "'bad name' is not a SageMaker name: letters, digits and hyphens"),
            (["--keep-log", tmp_path / "none" / "log"], "cannot be kept"),
            (["--provider", "tpu"], "provider 'tpu'"),
        ):
            done = command("serve", "--bundle", tiny_bundle, "--port", 0, *options)
            assert done.code == 2, done.err
            assert words in done.err
            assert "Traceback" not in done.err
            assert "sesame" not in done.err, "a token must not be shown"
    done = command("serve", "--bundle", tmp_path, "--port", 0)
    assert done.code == 1
    assert "starting" not in done.err


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["--as-endpoint", "films"], {}, "with --as-endpoint, name the bundle"),
        ([], {"PNEUMOSCOPE_BUNDLE": ""}, "--bundle is missing; in a container or a job"),
        ([], {"SM_MODEL_DIR": "/opt/ml/model"}, "--bundle is missing; in a container or a job"),
        ([], {"SAGEMAKER_BASE_DIR": "base"}, "--bundle is missing; in a container or a job"),
        (["BUNDLE"], {}, "BUNDLE is a bundle; pass it as --bundle BUNDLE."),
        (["elsewhere"], {}, "unexpected argument 'elsewhere'"),
    ],
)
def test_containers_and_endpoints_must_name_their_bundle(
    options: list[str], environment: dict[str, str], message: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    """An endpoint or a container without a bundle must not answer with the shipped one."""
    (tmp_path / "base" / "model").mkdir(parents=True)
    (tmp_path / "BUNDLE").symlink_to(tiny_bundle)
    done = subprocess.run(
        [sys.executable, "-m", "pneumoscope", "serve", "--port", "0", *options],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "starting" not in done.stderr, done.stderr
    assert message in done.stderr


def test_without_a_bundle_the_shipped_one_is_served_and_named() -> None:
    with serving(None) as service:
        assert f"starting {SHIPPED} " in service.log
        assert " (ships with the package) at http://" in service.log
        assert service.get("/v1/model").json()["card"]["name"] == SHIPPED


def test_help_names_the_environment_variables(command: Callable[..., SimpleNamespace]) -> None:
    shown = command("serve", "--help").out
    for variable in ("PNEUMOSCOPE_BUNDLE", "PNEUMOSCOPE_HOST", "PNEUMOSCOPE_PORT", "PNEUMOSCOPE_TOKEN"):
        assert variable in shown
    assert "not a medical device" in " ".join(shown.split())


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_is_130(tiny_bundle: Path, workers: int) -> None:
    with serving(tiny_bundle, "--workers", workers) as service:
        assert service.stop(signal.SIGINT) == 130


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_during_the_start_stops_the_service(tiny_bundle: Path, workers: int) -> None:
    command = [sys.executable, "-m", "pneumoscope", "serve", "--bundle", str(tiny_bundle), "--port", "0"]
    with subprocess.Popen([*command, "--workers", str(workers)], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        time.sleep(0.3)
        process.terminate()
        assert process.wait(30) in (0, -signal.SIGTERM)


def test_a_killed_worker_is_replaced_and_no_longer_counted(tiny_bundle: Path) -> None:
    """A new worker takes its place, and the gauges do not count both."""
    with serving(tiny_bundle, "--workers", 2) as service:
        await_workers(service, 2)
        children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
        victim = next(pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(int(victim), signal.SIGKILL)
        await_workers(service, 1)
        await_workers(service, 2)
        assert service.post("/v1/predictions", FILM).status == HTTPStatus.OK


def await_workers(service: Service, count: int, **headers: str) -> None:
    until, ready = time.monotonic() + 60, 0.0
    while ready != count:
        assert time.monotonic() < until, ready
        time.sleep(0.1)
        ready = samples_of(service.get("/metrics", **headers).body.decode()).get("pneumoscope_ready", 0)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 32"):
        ServeConfig(bundle=Path("b"), queue=3)
    assert TOKEN not in repr(ServeConfig(bundle=Path("b"), token=TOKEN))
