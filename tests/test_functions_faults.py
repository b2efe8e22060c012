"""What the Lambda functions do when something fails: retries and dead letters, 503 and 500, and missing settings."""

import json
from http import HTTPStatus

import pytest

from lambda_account import (
    BUCKET,
    FILM,
    LOG,
    ORIGIN,
    TABLE,
    TEXT,
    Bucket,
    Start,
    dead_letters,
    done,
    problem,
    queue_url,
)
from lambda_events import from_http_api, from_rest_api, from_s3
from lambda_runtime import Function, nowhere
from local_cloud import LocalCloud
from pneumoscope.aws import limits
from pneumoscope.aws.functions.shared import Settings
from pneumoscope.errors import UsageError


def test_invalid_records_do_not_stop_the_others(local: LocalCloud, with_endpoint: Function, bucket: Bucket) -> None:
    """The event comes again because of the bad ones; what is done stays done."""
    films = {"a": FILM, "b": TEXT, "c": FILM, "d": FILM}
    event = from_s3(BUCKET, *[bucket.put(data, name)["detail"]["object"]["key"] for name, data in films.items()])
    del event["Records"][0]["s3"]
    event["Records"][2]["eventName"] = ["Wintergreen"]
    outcomes = with_endpoint.deliver(event, local.client("sqs"), queue_url(local))
    assert [len(outcome.lines(LOG)) for outcome in outcomes] == [2, 0, 0]
    for outcome in outcomes:
        assert outcome.error is not None
        assert "lacks 's3'" in outcome.error["errorMessage"]
        assert "AttributeError at read_record:" in outcome.error["errorMessage"]
    assert sorted(bucket.results()) == ["b.json", "d.json"]
    assert dead_letters(local) == [event]


def test_an_event_of_another_service_is_refused_in_one_sentence(with_endpoint: Function) -> None:
    error = with_endpoint.invoke({"Messages": []}).error
    assert error is not None
    assert error["errorType"] == "UsageError"
    assert error["errorMessage"].count(". ") == 0
    assert "connect the function to a bucket" in error["errorMessage"]


def test_a_film_waits_for_a_stopped_endpoint_as_a_dead_letter(
    local: LocalCloud, start: Start, with_endpoint: Function, bucket: Bucket
) -> None:
    event = bucket.put(FILM)
    with start("on_upload", AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=nowhere()) as stopped:
        outcomes = stopped.deliver(event, local.client("sqs"), queue_url(local))
    assert [outcome.error and outcome.error["errorType"] for outcome in outcomes] == ["BusyError"] * 3
    assert bucket.results() == []
    (letter,) = dead_letters(local)
    assert letter == event
    done(with_endpoint.invoke(letter))  # sent again when the endpoint runs
    assert bucket.result()["decision"]["status"] == "answered"


def test_a_dead_letter_can_be_sent_again(with_endpoint: Function, bucket: Bucket) -> None:
    """Lambda wraps a failed event in a record ("Lambda: capturing records of asynchronous invocations")."""
    letter = {
        "version": "1.0",
        "timestamp": "2026-11-23T12:00:00.000Z",
        "requestContext": {"condition": "RetriesExhausted", "approximateInvokeCount": 3},
        "requestPayload": bucket.put(FILM),
        "responseContext": {"statusCode": 200, "functionError": "Unhandled"},
        "responsePayload": {"errorType": "BusyError", "errorMessage": "endpoint films is busy"},
    }
    assert done(with_endpoint.invoke(letter)).response["films"] == 1
    assert bucket.result()["decision"]["status"] == "answered"


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"PNEUMOSCOPE_ENDPOINT": "others"}, "CloudError", "endpoint others: "),
        ({"AWS_ENDPOINT_URL_S3": "nowhere"}, "BusyError", "reading the film: AWS answers EndpointConnectionError; "),
        ({"PNEUMOSCOPE_TABLE": "others"}, "CloudError", "table others cannot be used"),
        ({"PNEUMOSCOPE_ENDPOINT": "", "PNEUMOSCOPE_MODEL": "s3://models/a.tar.gz"}, "CloudError", "models/a.tar.gz"),
        ({"PNEUMOSCOPE_ENDPOINT": "", "PNEUMOSCOPE_MODEL": "s3://models/bad.tar.gz"}, "BundleError", "model.tar.gz"),
    ],
)
def test_failures_that_an_operator_must_fix_are_raised(
    local: LocalCloud, start: Start, bucket: Bucket, changes: dict[str, str], kind: str, message: str
) -> None:
    local.client("s3").put_object(Bucket="models", Key="bad.tar.gz", Body=b"no archive")
    changes = {name: value.replace("nowhere", nowhere()) for name, value in changes.items()}
    with start("on_upload", **changes) as function:
        error = function.invoke(bucket.put(FILM)).error
    assert error is not None
    assert error["errorType"] == kind, error
    assert message in error["errorMessage"], error
    assert bucket.results() == []


def test_denied_access_is_raised(local: LocalCloud, start: Start, bucket: Bucket) -> None:
    event = bucket.put(FILM)
    made = local.client("iam").create_user(UserName="nobody") and local.client("iam").create_access_key(
        UserName="nobody"
    )
    key = made["AccessKey"]
    allowed = {"Effect": "Allow", "Action": "dynamodb:*", "Resource": "*"}
    local.client("iam").put_user_policy(
        UserName="nobody",
        PolicyName="table",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
    )
    credentials = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    with start("on_upload", **credentials, AWS_SESSION_TOKEN="") as function, local.guarded():
        error = function.invoke(event).error
    assert error is not None
    assert "reading the film: AWS answers AccessDenied; " in error["errorMessage"]


def test_a_stopped_endpoint_is_a_503(start: Start) -> None:
    with start("api", AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=nowhere(), PNEUMOSCOPE_CORS_ORIGINS="") as function:
        event = from_http_api("POST", "/predictions", FILM, content_type="image/jpeg")
        document, headers = problem(function, event)
        assert document["status"] == 503
        assert headers["retry-after"] == "5"
        assert "busy" in function.log
        document, _ = problem(function, from_rest_api("OPTIONS", "/predictions", Origin=ORIGIN))
        assert document["status"] == HTTPStatus.NOT_FOUND  # without origins, there is no route for preflight requests


def test_a_fault_is_a_500_and_its_details_stay_in_the_log(start: Start) -> None:
    with start("api", PNEUMOSCOPE_ENDPOINT="others") as function:
        document, headers = problem(function, from_http_api("POST", "/predictions", FILM, content_type="image/jpeg"))
        assert document["status"] == 500
        assert headers["x-request-id"] in document["detail"]
        assert "others" not in document["detail"]
        assert "endpoint others" in function.log


@pytest.mark.parametrize("name", ["on_upload", "api"])
def test_a_missing_setting_is_reported_in_one_sentence(start: Start, name: str) -> None:
    with start(name, PNEUMOSCOPE_BUCKET="") as function:
        error = function.invoke(from_http_api("POST", "/jobs")).error
    assert error is not None
    assert error["errorMessage"] == "the environment variable PNEUMOSCOPE_BUCKET is missing; set it on the function."


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PNEUMOSCOPE_MODEL", "", "PNEUMOSCOPE_MODEL is missing"),
        ("PNEUMOSCOPE_MODEL", "models/model.tar.gz", "s3://BUCKET/PREFIX"),
        ("PNEUMOSCOPE_MODEL", "s3://models/tiny", "must end with .tar.gz"),
        ("PNEUMOSCOPE_RESULTS_PREFIX", "films/results/", "overlap: one begins with the other"),
        ("PNEUMOSCOPE_RESULTS_PREFIX", "films/", "overlap: one begins with the other"),
        ("PNEUMOSCOPE_FILMS_PREFIX", "results/films/", "overlap: one begins with the other"),
        ("PNEUMOSCOPE_FILMS_PREFIX", "films", "PNEUMOSCOPE_FILMS_PREFIX is 'films'"),
        ("PNEUMOSCOPE_CORS_ORIGINS", "pacs.example", "PNEUMOSCOPE_CORS_ORIGINS is 'pacs.example'"),
        ("PNEUMOSCOPE_ENDPOINT_LIMIT", "6 MB", "PNEUMOSCOPE_ENDPOINT_LIMIT is '6 MB'"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_sentence(name: str, value: str, message: str) -> None:
    given = {"PNEUMOSCOPE_MODEL": "s3://models/model.tar.gz", "PNEUMOSCOPE_BUCKET": BUCKET, "PNEUMOSCOPE_TABLE": TABLE}
    assert Settings.read(given).endpoint_limit == limits.REALTIME
    with pytest.raises(UsageError) as caught:
        Settings.read(given | {name: value})
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")
