"""Endpoints that are missing, busy or silent, or whose model fails."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from account import FILM, REGION, run, scripted
from pneumoscope.aws.client.invoke import Client
from pneumoscope.aws.endpoint import Endpoint, problem_detail, read_prediction
from pneumoscope.aws.session import Cloud
from pneumoscope.cli.show_aws import show_decisions
from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Engine
from pneumoscope.errors import (
    BusyError,
    CloudError,
)

pytestmark = pytest.mark.usefixtures("aws")


def test_one_film_without_an_answer_does_not_end_the_others(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction = Engine.load(tiny_bundle).predict(FILM).as_json() | {"notice": DISCLAIMER}
    for name in "abcde":
        (tmp_path / f"{name}.jpeg").write_bytes(FILM)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    response = (200, prediction)
    with scripted(response, response, model_error(418, "teapot"), response) as (url, _):
        done = run("invoke", "films", tmp_path, "--format", "json", AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=url)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [each["status"] == "rejected" for each in lines] == [False, False, True, False, False]
    assert lines[2]["reason_codes"] == ["unanswered"]
    assert done.code == 1
    assert "its model answered 418" in done.err


def test_an_endpoint_that_stays_busy_ends_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.jpeg").write_bytes(FILM)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with scripted(model_error(503, "the queue is full")) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
        client = Client(Cloud(region=REGION), "films", pause=lambda _: None)
        with pytest.raises(BusyError, match="none of 3 films in a row"):
            show_decisions(client, [tmp_path], "json", quiet=True)
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert len(asked) == 15


def test_a_silent_endpoint_is_given_up_in_time() -> None:
    """A Lambda function needs this, because its own time is short."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as environment:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", address)
        endpoint = Endpoint(Cloud(region=REGION).runtime_client(0.4), "films", patience=0.4)
        started = time.monotonic()
        with pytest.raises(BusyError, match="did not answer in time"):
            endpoint.classify(FILM)
        assert time.monotonic() - started < 5  # `Cloud.client` would make six attempts of 70 s in each of five tries
        silent.settimeout(0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_missing_endpoint_is_reported_by_name(aws: Cloud) -> None:
    with pytest.raises(CloudError, match=r"there is no endpoint films in eu-central-1"):
        Client(aws, "films")


def model_error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return 424, {
        "__type": "ModelError",
        "OriginalStatusCode": status,
        "OriginalMessage": message,
        "LogStreamArn": "arn:x",
    }


def test_a_busy_model_is_called_again_and_a_broken_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = {"status": "answered", "probabilities": {}, "reasons": []}
    busy = model_error(503, json.dumps({"detail": "the queue is full."}))

    def ask(*replies: tuple[int, dict[str, Any]]) -> Any:
        with scripted(*replies) as (url, asked):
            monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
            runtime = Cloud(region=REGION).runtime_client()
            try:
                return Endpoint(runtime, "films", pause=lambda _: None).classify(FILM)
            finally:
                counted.append(len(asked))

    counted: list[int] = []
    assert ask(busy, busy, (200, prediction)).tries == 3
    with pytest.raises(BusyError, match=r"its model answered 503 \(the queue is full\); try again later"):
        ask(busy)
    with pytest.raises(CloudError, match=r"its model answered 418 \(teapot\); its log is arn:x"):
        ask(model_error(418, "teapot"))
    with pytest.raises(CloudError, match="does not answer like Pneumoscope"):
        ask((200, {"label": 2}))
    assert counted == [3, 5, 1, 1]


def test_problem_documents_and_other_responses_are_read() -> None:
    assert problem_detail('{"detail": "so it is."}') == "so it is."
    assert problem_detail("plain") == "plain"
    assert problem_detail("[1]") == "[1]"
    with pytest.raises(CloudError):
        read_prediction(b"\xff", "films")
