"""The API's Lambda function: films that are posted, jobs with an upload form, CORS, and requests that it refuses.

It runs in the real runtime client, with moto as AWS and our own service as the endpoint.
"""

import json
import time
import uuid
from datetime import UTC, datetime
from http import HTTPStatus

import numpy as np
import pytest
from PIL import Image

import dicoms
from lambda_account import (
    BLANK,
    BUCKET,
    FILM,
    LOG,
    ORIGIN,
    OTHER_ORIGIN,
    TEXT,
    Bucket,
    Start,
    call,
    comparable,
    done,
    environment,
    form_policy,
    large_film,
    problem,
    upload,
)
from lambda_events import from_eventbridge, from_http_api, from_rest_api
from lambda_runtime import Function, invoke_in_emulator, nowhere, official_emulator
from local_cloud import LocalCloud
from pneumoscope.aws import limits
from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Engine
from pneumoscope.imaging import DEFAULT_LIMITS
from pneumoscope.phantom import film
from pneumoscope.server.problems import MEDIA_TYPE
from samples import encode, parse_decision
from service import Service

CALLS = {"2.0": from_http_api, "1.0": from_rest_api}


@pytest.mark.parametrize("version", CALLS)
def test_a_posted_film_gets_a_decision(api: Function, engine: Engine, version: str) -> None:
    data = encode(Image.fromarray(film("normal", patient=3, size=(2000, 2000))), compress_level=0)
    assert 4_000_000 < len(data) < limits.API_FILM
    for body, kind in ((FILM, "image/jpeg"), (data, "image/png"), (BLANK, "application/x-image")):
        status, headers, document = call(api, CALLS[version]("POST", "/predictions", body, Content_Type=kind))
        assert status == 200
        assert headers["content-type"] == "application/json"
        assert comparable(document) == comparable(engine.predict(body).as_json())
        assert document["notice"] == DISCLAIMER
        parse_decision(document, "notice")
        assert (document["status"] == "rejected") == (body is BLANK)


def test_a_dicom_film_is_answered_without_naming_its_patient(
    api: Function, in_process: Function, bucket: Bucket
) -> None:
    """The fixtures check at their end that no log names the patient."""
    pixels = np.random.default_rng(4).integers(0, 4000, (90, 80), dtype=np.uint16)
    data = dicoms.dicom(pixels)
    assert dicoms.NAME.encode() in data
    status, _, document = call(api, from_http_api("POST", "/predictions", data, content_type="application/dicom"))
    assert status == HTTPStatus.OK
    done(in_process.invoke(bucket.put(data)))
    assert bucket.result()["decision"]["probabilities"] == document["probabilities"]


@pytest.mark.parametrize("version", CALLS)
@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (TEXT, {"content_type": "image/jpeg"}, 422, "not an accepted image"),
        ('{"film": 1}', {"content_type": "application/json"}, 415, "application/json; accepted are image/*"),
        (FILM, {}, 415, "the content type is missing"),
        (FILM, {"content_type": "image/"}, 415, "accepted are"),
        (None, {"content_type": "image/png"}, 400, "has no body"),
        ("plain", {"content_type": "image/png"}, 400, "came as text"),
        (b"", {"content_type": "image/png"}, 400, "has no body"),
    ],
)
def test_a_body_that_is_not_a_film_is_a_problem(
    api: Function, version: str, body: bytes | str | None, headers: dict[str, str], status: int, message: str
) -> None:
    document, _ = problem(api, CALLS[version]("POST", "/predictions", body, **headers))
    assert document["status"] == status, document
    assert message in document["detail"], document


def test_broken_base64_is_a_problem(api: Function) -> None:
    event = from_http_api("POST", "/predictions", FILM, content_type="image/png")
    document, _ = problem(api, event | {"body": "????"})
    assert document["status"] == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/predictions"), ("POST", "/jobs/a/b"), ("PUT", "/jobs")]
)
def test_an_unknown_route_is_a_problem(api: Function, method: str, path: str) -> None:
    for make in CALLS.values():
        document, _ = problem(api, make(method, path))
        assert document["status"] == HTTPStatus.NOT_FOUND
        assert "POST /jobs" in document["detail"]


@pytest.mark.parametrize(
    "job", ["1", "Wintergreen", "0198C8F0-9C0B-7EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-11f8-bb6d-6bb9bd380a11"]
)
def test_an_invalid_job_id_is_a_problem(api: Function, job: str) -> None:
    document, _ = problem(api, from_http_api("GET", f"/jobs/{job}"))
    assert document["status"] == HTTPStatus.BAD_REQUEST
    assert "POST /jobs" in document["detail"]


@pytest.mark.parametrize("version", CALLS)
def test_a_large_film_goes_through_the_bucket(
    api: Function, with_endpoint: Function, engine: Engine, version: str
) -> None:
    """The API refuses it with an upload form; the bucket's function decides on it."""
    large = large_film()
    refused, _ = problem(api, CALLS[version]("POST", "/predictions", large, content_type="image/png"))
    assert refused["status"] == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    job = refused["upload"]
    assert set(job) == {"id", "upload", "result"}
    assert upload(job["upload"], large) == HTTPStatus.NO_CONTENT
    status, headers, pending = call(api, CALLS[version]("GET", job["result"]))
    assert status == 202
    assert pending["status"] == "pending"
    assert headers["retry-after"].isdecimal()
    done(with_endpoint.invoke(from_eventbridge(BUCKET, f"films/{job['id']}")))
    status, _, document = call(api, CALLS[version]("GET", job["result"]))
    assert status == HTTPStatus.OK
    assert comparable(document) == comparable(engine.predict(large).as_json())


def test_a_job_can_be_created_without_a_film(api: Function) -> None:
    status, headers, job = call(api, from_http_api("POST", "/jobs"))
    assert status == 202
    assert headers["content-type"] == "application/json"
    assert job["result"] == f"/jobs/{job['id']}"
    assert job["upload"]["method"] == "POST"
    assert 800 < (datetime.fromisoformat(job["upload"]["expires"]) - datetime.now(UTC)).total_seconds() <= 900
    assert job["upload"]["fields"]["x-amz-algorithm"] == "AWS4-HMAC-SHA256"
    expires = datetime.fromisoformat(form_policy(job["upload"])["expiration"])
    assert 800 < (expires - datetime.now(UTC)).total_seconds() <= 900
    other = call(api, from_http_api("POST", "/jobs"))[2]
    assert other["id"] != job["id"]


@pytest.mark.parametrize("region", ["eu-central-1", "us-east-1"])
def test_upload_forms_name_the_buckets_region(start: Start, region: str) -> None:
    """The address without a region redirects requests to a new bucket, which browsers do not follow."""
    with start("api", AWS_ENDPOINT_URL="", AWS_REGION=region, AWS_DEFAULT_REGION=region) as function:
        place = call(function, from_http_api("POST", "/jobs"))[2]["upload"]
    assert place["url"] == f"https://{BUCKET}.s3.{region}.amazonaws.com/"
    assert place["fields"]["key"].startswith("films/")
    assert f"/{region}/s3/" in place["fields"]["x-amz-credential"]


def test_an_upload_form_limits_size_and_type(api: Function) -> None:
    """S3 enforces the policy that is signed with the form; moto does not."""
    job = call(api, from_http_api("POST", "/jobs"))[2]
    conditions = form_policy(job["upload"])["conditions"]
    assert ["content-length-range", 1, DEFAULT_LIMITS.max_bytes] in conditions
    assert {"Content-Type": "application/octet-stream"} in conditions
    assert {"key": f"films/{job['id']}"} in conditions
    assert job["upload"]["fields"]["Content-Type"] == "application/octet-stream"
    assert job["upload"]["max_bytes"] == DEFAULT_LIMITS.max_bytes


def test_a_job_whose_film_failed_for_good_ends(start: Start, api: Function, with_endpoint: Function) -> None:
    """Until Lambda's third attempt, and when the dead letter is sent again, there may still be a decision."""
    job = call(api, from_http_api("POST", "/jobs"))[2]
    assert upload(job["upload"], FILM) == HTTPStatus.NO_CONTENT
    event, statuses = from_eventbridge(BUCKET, f"films/{job['id']}"), list[int]()
    with start("on_upload", AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=nowhere(), PNEUMOSCOPE_SECONDS="2") as stopped:
        for _ in range(3):
            statuses.append(call(api, from_http_api("GET", job["result"]))[0])
            assert stopped.invoke(event).error is not None
    assert statuses == [HTTPStatus.ACCEPTED] * 3
    status, headers, document = call(api, from_http_api("GET", job["result"]))
    assert status == HTTPStatus.GONE
    assert headers["content-type"] == MEDIA_TYPE
    assert document["job"] == {"id": job["id"], "status": "failed"}
    done(with_endpoint.invoke(event))
    assert call(api, from_http_api("GET", job["result"]))[0] == HTTPStatus.OK


def test_a_job_without_an_upload_ends(start: Start) -> None:
    """According to the time in its id, the form has expired and no event can still be on its way."""
    early = uuid.UUID(int=int(time.time() * 1000 - 3600_000) << 80 | 7 << 76 | 0b10 << 62 | 5)
    with start("api", PNEUMOSCOPE_EVENT_AGE="60") as function:
        assert call(function, from_http_api("GET", f"/jobs/{early}"))[0] == HTTPStatus.GONE
    with start("api", PNEUMOSCOPE_EVENT_AGE="3600") as function:
        assert call(function, from_http_api("GET", f"/jobs/{early}"))[0] == HTTPStatus.ACCEPTED


def test_a_large_film_is_refused_by_its_announced_length(api: Function) -> None:
    event = from_http_api(
        "POST", "/predictions", FILM, content_type="image/png", content_length=str(limits.API_FILM + 1)
    )
    document, _ = problem(api, event)
    assert document["status"] == 413
    assert document["upload"]["upload"]["method"] == "POST"


@pytest.mark.parametrize("origin", [ORIGIN, OTHER_ORIGIN])
def test_behind_a_rest_api_the_function_sets_cors_headers(api: Function, origin: str) -> None:
    status, headers, _ = call(api, from_rest_api("OPTIONS", "/predictions", Origin=origin))
    assert status == HTTPStatus.NO_CONTENT
    assert headers["access-control-allow-origin"] == origin
    assert {"GET", "POST"} <= set(headers["access-control-allow-methods"].split(","))
    assert "Content-Type" in headers["access-control-allow-headers"]
    posted = from_rest_api("POST", "/predictions", TEXT, Origin=origin, Content_Type="image/png")
    assert problem(api, posted)[1]["access-control-allow-origin"] == origin
    stranger = from_rest_api("OPTIONS", "/predictions", Origin="https://evil.example")
    assert "access-control-allow-origin" not in call(api, stranger)[1]


def test_behind_an_http_api_the_function_sets_no_cors_headers(api: Function) -> None:
    for method in ("OPTIONS", "POST"):
        _, headers = problem(api, from_http_api(method, "/predictions", origin=ORIGIN))
        assert not [name for name in headers if name.startswith("access-control")]


def test_the_official_emulator_runs_a_function(local: LocalCloud, endpoint: Service, engine: Engine) -> None:
    """The same handler and event, with AWS's own implementation of the Runtime API."""
    program = official_emulator()
    if program is None:
        pytest.skip("aws-sam-cli is not installed, and PNEUMOSCOPE_LAMBDA_EMULATOR does not name an aws-lambda-rie")
    event = from_http_api("POST", "/predictions", FILM, content_type="image/jpeg")
    outcome = invoke_in_emulator(program, "pneumoscope.aws.functions.api.handler", environment(local, endpoint), event)
    assert comparable(json.loads(outcome.response["body"])) == comparable(engine.predict(FILM).as_json())
    assert len(outcome.lines(LOG)) == 1
