"""Calls to endpoints: the real boto3 against the real service, and asynchronous endpoints in moto."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boto3.exceptions import RetriesExceededError
from PIL import Image

from account import FILM, REGION, deploy_settings, list_keys, run
from local_cloud import LocalCloud
from pneumoscope.aws.client.deploy import deploy
from pneumoscope.aws.client.inventory import variant_and_contract
from pneumoscope.aws.client.invoke import Client
from pneumoscope.aws.limits import REALTIME, SERVERLESS
from pneumoscope.aws.session import Cloud, translate_errors
from pneumoscope.contract import DISCLAIMER, load_contract
from pneumoscope.dataset import Dataset
from pneumoscope.engine import Engine
from pneumoscope.errors import (
    BusyError,
    CloudError,
    ImageError,
    UnsuitableError,
)
from pneumoscope.phantom import film
from pneumoscope.settings.serve import ServeConfig
from samples import encode, parse_decision
from service import serving

pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture(scope="module")
def standing_in(tiny_bundle: Path) -> Iterator[str]:
    """The URL of our service as a stand-in for an endpoint."""
    with serving(tiny_bundle, "--as-endpoint", "films") as service:
        yield service.url


@pytest.fixture
def runtime(standing_in: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", standing_in)
    monkeypatch.delenv("AWS_ENDPOINT_URL")  # no control plane, as without an account
    return standing_in


def big_film() -> bytes:
    """A film of more than 6 MB: a phantom with noise, which a PNG hardly compresses."""
    luma = film("bacteria", patient=2, size=(2600, 2900)).astype(np.int16)
    luma += np.random.default_rng(0).integers(-40, 40, luma.shape, np.int16)
    return encode(Image.fromarray(luma.clip(0, 255).astype(np.uint8)))


@pytest.mark.usefixtures("runtime")
def test_boto3_receives_the_engines_own_prediction(aws: Cloud, tiny_bundle: Path) -> None:
    """`serve --as-endpoint`, called by an unmodified boto3 client."""
    reply = aws.client("sagemaker-runtime").invoke_endpoint(
        EndpointName="films", Body=FILM, ContentType="application/x-image"
    )
    assert reply["InvokedProductionVariant"] == "AllTraffic"
    document = json.loads(reply["Body"].read())
    assert document["probabilities"] == Engine.load(tiny_bundle).predict(FILM).as_json()["probabilities"]
    assert "Not a medical device" in document["notice"]


@pytest.mark.usefixtures("runtime")
def test_a_stand_ins_errors_are_those_of_aws(aws: Cloud) -> None:
    client = aws.client("sagemaker-runtime")
    with pytest.raises(client.exceptions.ModelError) as failure:
        client.invoke_endpoint(EndpointName="films", Body=b"text", ContentType="image/png")
    assert failure.value.response["OriginalStatusCode"] == 422
    assert "not an accepted image" in failure.value.response["OriginalMessage"]
    assert failure.value.response["LogStreamArn"].endswith("films")
    with pytest.raises(client.exceptions.ClientError, match=r"ValidationError.*Endpoint other of account"):
        client.invoke_endpoint(EndpointName="other", Body=FILM)
    with pytest.raises(client.exceptions.ClientError, match=r"413.*exceeded 6291456 bytes"):
        client.invoke_endpoint(EndpointName="films", Body=bytes(REALTIME + 1), ContentType="image/png")
    with pytest.raises(client.exceptions.ModelError, match="415"):
        client.invoke_endpoint(EndpointName="films", Body=FILM, ContentType="text/plain")


def test_a_service_with_a_token_cannot_stand_in(tiny_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pneumoscope", "serve", "--bundle", str(tiny_bundle), "--as-endpoint", "films"],
        env=os.environ | {"PNEUMOSCOPE_TOKEN": "t" * 20},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot send a token" in done.stderr


@pytest.mark.usefixtures("runtime")
def test_invoke_prints_decisions_and_durations(tmp_path: Path) -> None:
    (tmp_path / "a.jpeg").write_bytes(FILM)
    done = run("invoke", "films", tmp_path / "a.jpeg", "--format", "json")
    document = json.loads(done.out)
    assert done.code == 0
    assert document["status"] == "answered"
    assert document["image"] == str(tmp_path / "a.jpeg")
    assert document["endpoint"] | {"milliseconds": 1} == {
        "name": "films",
        "variant": "realtime",
        "milliseconds": 1,
        "tries": 1,
        "shrunk": False,
    }
    (tmp_path / "b.png").write_bytes(b"text")
    shown = run("invoke", "films", tmp_path)
    assert shown.code == 1
    assert "Not a medical device" in shown.out
    assert shown.out.count("answered") == 1
    assert "b.png: not an accepted image" in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.usefixtures("runtime")
def test_every_film_has_a_line_of_json_and_a_folder_without_films_is_reported(tmp_path: Path) -> None:
    none = tmp_path / "none"
    none.mkdir()
    (none / "readme.txt").write_text("no film")
    empty = run("invoke", "films", none)
    assert empty.code == 2
    assert f"no image file in {none}; accepted are" in empty.err
    assert empty.out == ""
    (tmp_path / "a.jpeg").write_bytes(FILM)
    (tmp_path / "b.png").write_bytes(b"text")
    shown = run("invoke", "films", tmp_path / "a.jpeg", none, tmp_path / "b.png", "--format", "json")
    answered, rejected = map(json.loads, shown.out.splitlines())
    assert shown.code == 1
    assert answered["status"] == "answered"
    assert rejected["status"] == "rejected"
    assert rejected["reason_codes"] == ["undecodable"]
    assert rejected["image"] == str(tmp_path / "b.png")
    assert f"note: no image file in {none}." in shown.err


@pytest.mark.usefixtures("runtime")
def test_rejections_have_the_same_keys_as_answers(tiny_bundle: Path, tmp_path: Path) -> None:
    """Whether the service cannot decode the film, it exceeds the endpoint's limit, or this machine cannot read it."""
    (tmp_path / "a.jpeg").write_bytes(FILM)
    (tmp_path / "b.png").write_bytes(b"text")
    (tmp_path / "c.png").write_bytes(bytes(REALTIME + 1))
    with (tmp_path / "d.png").open("wb") as sparse:
        sparse.truncate(100_000_001)
    (tmp_path / "e.png").symlink_to(tmp_path / "nowhere")
    done = run("invoke", "films", tmp_path, "--format", "json")
    answered, *refused = lines = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 1
    assert answered["status"] == "answered"
    assert {each["status"] for each in refused} == {"rejected"}
    codes = [each["reason_codes"] for each in refused]
    assert codes == [["undecodable"], ["too-large"], ["undecodable"], ["unreadable"]]
    for line in lines:
        assert line.keys() == answered.keys()
        assert line["endpoint"].keys() == answered["endpoint"].keys()
        parse_decision(line, "notice", "endpoint")
        assert line["notice"] == DISCLAIMER
    with_bundle = run("invoke", "films", tmp_path, "--format", "json", "--bundle", tiny_bundle)
    assert [json.loads(line)["model"] for line in with_bundle.out.splitlines()] == [answered["model"]] * 5


def test_mistakes_with_a_stand_in_are_reported_in_one_sentence(
    tiny_bundle: Path, standing_in: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jpeg").write_bytes(FILM)
    bare = {name: "" for name in os.environ if name.startswith("AWS_")}

    def ask(url: str, *more: object, name: str = "films") -> str:
        done = run("invoke", name, tmp_path, *more, **bare | {"AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": url})
        assert done.code in (1, 2)
        assert "Traceback" not in done.err
        assert len(done.err.strip().splitlines()) == 1, done.err
        return str(done.err)

    assert "is not an HTTP address; an example is http://127.0.0.1:8080" in ask("127.0.0.1:8080")
    assert "check that `pneumoscope serve --bundle BUNDLE --as-endpoint NAME` runs there" in ask("http://127.0.0.1:9")
    assert "stands in for real-time endpoints only, not for async ones" in ask(standing_in, "--variant", "async")
    assert "use the name that was given to `serve --as-endpoint`" in ask(standing_in, name="other")
    assert "has no contract.json" in ask(standing_in, "--bundle", tmp_path)
    with serving(tiny_bundle) as plain:
        assert "answers 404 and is not an endpoint; if it is `pneumoscope serve`, start that with" in ask(plain.url)


def test_a_stand_in_needs_no_account(standing_in: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpeg").write_bytes(FILM)
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    bare |= {"HOME": str(tmp_path), "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": standing_in}
    command = [sys.executable, "-m", "pneumoscope", "aws", "invoke", "films", str(tmp_path / "a.jpeg")]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "answered" in done.stdout, done.stderr


@pytest.mark.usefixtures("runtime")
def test_a_large_film_is_shrunk_by_the_contracts_rule(tiny_bundle: Path, tmp_path: Path) -> None:
    large = big_film()
    assert len(large) > REALTIME
    (tmp_path / "large.png").write_bytes(large)
    without = run("invoke", "films", tmp_path / "large.png")
    assert without.code == 1
    assert "name the endpoint's bundle with --bundle" in without.err
    done = run("invoke", "films", tmp_path / "large.png", "--bundle", tiny_bundle, "--format", "json")
    document = json.loads(done.out)
    assert document["endpoint"]["shrunk"] is True
    assert f"sent as the {load_contract(tiny_bundle).input.size}×" in done.err
    assert document["probabilities"] == Engine.load(tiny_bundle).predict(large).as_json()["probabilities"]


def test_a_large_film_is_shrunk_by_the_contract_beside_the_model(
    aws: Cloud, standing_in: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(aws, deploy_settings(tiny_bundle, variant="serverless"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", standing_in)
    client = Client(Cloud(region=REGION), "films")
    assert client.variant == "serverless"
    assert client.limit == SERVERLESS
    large = big_film()
    found = client.classify(large)
    assert found.shrunk
    assert found.prediction["probabilities"] == Engine.load(tiny_bundle).predict(large).as_json()["probabilities"]


def queue_responses(url: str, responses: dict[str, Any]) -> None:
    """Give moto the responses of an asynchronous endpoint."""
    place = f"{url}/moto-api/static/sagemaker/async-endpoint-results"
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(place, json.dumps(responses).encode(), headers)) as reply:
        assert reply.status < 300


def test_an_asynchronous_endpoint_is_called_through_s3(aws: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path) -> None:
    deploy(aws, deploy_settings(tiny_bundle, variant="async"))
    prediction = Engine.load(tiny_bundle).predict(FILM).as_json()
    refused = 'Received client error (422) from primary with message "{"detail": "the file is empty."}". See logs.'
    queue_responses(
        shared_cloud.url,
        {
            "region": REGION,
            "results": [
                {"data": json.dumps(prediction)},
                {"is_failure": True, "data": refused},
                {"is_failure": True, "data": "Amazon SageMaker could not get a response"},
                {"data": "hello"},
            ],
        },
    )
    client = Client(aws, "films", pause=lambda _: None)
    assert client.variant == "async"
    assert client.classify(FILM).prediction == prediction
    with pytest.raises(ImageError, match="the file is empty"):
        client.classify(FILM)
    with pytest.raises(CloudError, match="could not get a response"):
        client.classify(FILM)
    with pytest.raises(CloudError, match="does not answer like Pneumoscope"):
        client.classify(FILM)
    assert list_keys(aws, "models/films/films") == [], "films were left behind"


def test_a_film_stays_in_s3_if_the_wait_for_its_response_is_given_up(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, deploy_settings(tiny_bundle, variant="async"))
    client = Client(aws, "films", patience=0.0, pause=lambda _: None)

    def nothing_yet(address: str) -> None:
        assert address.startswith("s3://")

    client._read_object = nothing_yet  # type: ignore[method-assign] # moto answers at once
    with pytest.raises(BusyError, match=r"did not answer in 0 s; its response may still appear at s3://"):
        client.classify(FILM)
    assert len(list_keys(aws, "models/films/films")) == 1
    assert client.limit == ServeConfig(bundle=tiny_bundle).max_bytes, "the service behind it accepts no more"


def test_an_invalid_region_is_reported_in_one_sentence() -> None:
    with pytest.raises(CloudError, match="eu_central_1") as failure:
        Cloud(region="eu_central_1").client("s3")
    assert "AWS_ENDPOINT_URL" not in str(failure.value)


def test_an_alias_is_refused_as_a_key(dataset: Dataset) -> None:
    for alias in ("alias/films", "arn:aws:kms:eu-central-1:1:alias/films"):
        done = run("upload", dataset.root, "s3://films-bucket/films", "--kms-key", alias)
        assert done.code == 2, done.err
        assert "is an alias; give the key's id or ARN" in done.err, done.err


def test_a_download_that_fails_repeatedly_is_reported_in_one_sentence() -> None:
    with pytest.raises(BusyError, match=r"reading s3://a/b: .*try again later"), translate_errors("reading s3://a/b"):
        raise RetriesExceededError(OSError("the connection was closed"))


def test_without_a_contract_in_s3_a_large_film_needs_the_bundle(aws: Cloud, tiny_bundle: Path) -> None:
    deploy(aws, deploy_settings(tiny_bundle))
    contract = variant_and_contract(aws, "films")[1]
    assert contract is not None
    aws.client("s3").delete_object(Bucket=contract.bucket, Key=contract.key)
    with pytest.raises(UnsuitableError, match="name the endpoint's bundle with --bundle") as failure:
        Client(aws, "films").classify(big_film())
    assert failure.value.code == "too-large"


@pytest.mark.usefixtures("runtime")
def test_an_unknown_endpoint_and_a_stopped_one_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CloudError, match=r"Endpoint other of account \d+ not found; use the name that was given to `serve"
    ):
        Client(Cloud(region=REGION), "other", variant="realtime").classify(FILM)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    waits: list[float] = []
    with pytest.raises(BusyError, match="cannot be reached"):
        Client(Cloud(region=REGION), "films", variant="realtime", pause=waits.append).classify(FILM)
    assert waits == [0.25, 0.5, 1.0, 2.0]
