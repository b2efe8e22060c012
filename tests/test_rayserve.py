"""A bundle packed for Ray Serve, in real Ray Serve."""

import json
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import ray_serve
from account import FILM
from pneumoscope.aws.client.package import write_model_archive
from pneumoscope.aws.unpack import extract
from pneumoscope.engine import Engine
from pneumoscope.errors import (
    BundleError,
    PneumoscopeError,
)
from pneumoscope.server.app import create_app
from pneumoscope.settings.serve import ServeConfig


def test_a_ray_serve_package_runs_in_ray_serve(tiny_bundle: Path, tmp_path: Path) -> None:
    """The archive of `deploy --serving ray`, unpacked and started with the command of AWS's image."""
    if sys.version_info >= (3, 14):
        pytest.skip("Ray has no release for this Python")
    archive = tmp_path / "model.tar.gz"
    with archive.open("wb") as stream:
        write_model_archive(tiny_bundle, stream, for_ray=True)
    place = tmp_path / "model"
    extract(archive, place)
    needed = (place / "code" / "requirements.txt").read_text()
    assert "onnxruntime" in needed
    assert "torch" not in needed
    with ray_serve.running(place) as ask:
        number, body = ask(FILM)
        assert number == 200
        assert json.loads(body)["probabilities"] == Engine.load(tiny_bundle).predict(FILM).as_json()["probabilities"]
        number, body = ask(b"text")
        assert number == 422
        assert "not an accepted image" in json.loads(body)["detail"]


def test_a_replica_waits_for_its_model_and_does_not_start_with_a_damaged_one(own_bundle: Path) -> None:
    """The application, started as Ray Serve's ingress starts it."""

    def fail(failure: PneumoscopeError) -> None:
        raise failure

    def started() -> int:
        app = create_app(ServeConfig(bundle=own_bundle), on_failure=fail, ready_first=True)
        with TestClient(app) as client:
            return client.get("/readyz").status_code

    assert started() == 200
    golden = next((own_bundle / "golden").glob("*.json"))
    golden.write_bytes(golden.read_bytes().replace(b'"label"', b'"labeI"', 1))
    with pytest.raises(BundleError, match="golden"):
        started()
