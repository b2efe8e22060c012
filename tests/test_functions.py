"""The two Lambda functions, each in the real runtime client, with moto as AWS and our own service as the endpoint."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import dicoms
from lambda_events import from_eventbridge, from_http_api, from_rest_api, from_s3
from lambda_runtime import Function, Outcome, invoke_in_emulator, nowhere, official_emulator, running
from local_cloud import LocalCloud, cloud
from pneumoscope.aws import limits
from pneumoscope.aws.client.package import write_model_archive
from pneumoscope.aws.functions.shared import PSEUDONYM_KEY_ITEM, Settings
from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Engine
from pneumoscope.errors import UsageError
from pneumoscope.imaging import DEFAULT_LIMITS
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.server.problems import MEDIA_TYPE, ProblemDocument
from samples import encode, parse_decision
from service import Service, serving

BUCKET, TABLE, DEAD_LETTERS = "films-and-results", "uploads", "dead-letters"
ENDPOINT = "films"
ORIGIN, OTHER_ORIGIN = "https://pacs.example", "https://ward.example"
#: A file name; and parts of names of files and patients, which must not be in any log.
NAME = "Wintergr een+50% ü.png"
PLANTED = ("Wintergr", dicoms.NUMBER, dicoms.BORN)
FILM = encode_jpeg(film("virus", patient=2, size=(200, 240)))
TEXT = f"{dicoms.NAME} came with a cough".encode()
BLANK = encode(Image.fromarray(np.zeros((64, 64), dtype=np.uint8)))
LOG = "decision"
CALLS = {"2.0": from_http_api, "1.0": from_rest_api}


@pytest.fixture(scope="module")
def local(tiny_bundle: Path) -> Iterator[LocalCloud]:
    """An account with what the template creates, except the functions."""
    with cloud() as made:
        s3 = made.client("s3")
        place = {"LocationConstraint": "eu-central-1"}
        for bucket in (BUCKET, "models"):
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=place)
        s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        with (tiny_bundle.parent / "model.tar.gz").open("wb+") as archive:
            write_model_archive(tiny_bundle, archive, for_ray=False)
            archive.seek(0)
            s3.put_object(Bucket="models", Key="tiny/model.tar.gz", Body=archive)
        s3.put_object(Bucket="models", Key="tiny/contract.json", Body=(tiny_bundle / "contract.json").read_bytes())
        made.client("dynamodb").create_table(
            TableName=TABLE,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )
        made.client("sqs").create_queue(QueueName=DEAD_LETTERS)
        yield made


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Service]:
    with serving(tiny_bundle, "--as-endpoint", ENDPOINT) as made:
        yield made


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.load(tiny_bundle)


Start = Callable[..., AbstractContextManager[Function]]


@pytest.fixture(scope="module")
def start(local: LocalCloud, service: Service) -> Start:
    """Start a function, configured as by the template and with changes; at the end, check that its log has no names."""

    @contextmanager
    def started(name: str, **changes: str) -> Iterator[Function]:
        with running(f"pneumoscope.aws.functions.{name}.handler", environment(local, service) | changes) as function:
            yield function
            assert not [planted for planted in PLANTED if planted in function.log]

    return started


def environment(local: LocalCloud, service: Service) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": local.url,
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": service.url,
        "AWS_MAX_ATTEMPTS": "1",
        "PNEUMOSCOPE_ENDPOINT": ENDPOINT,
        "PNEUMOSCOPE_MODEL": "s3://models/tiny/model.tar.gz",
        "PNEUMOSCOPE_BUCKET": BUCKET,
        "PNEUMOSCOPE_FILMS_PREFIX": "films/",
        "PNEUMOSCOPE_RESULTS_PREFIX": "results/",
        "PNEUMOSCOPE_TABLE": TABLE,
        "PNEUMOSCOPE_CORS_ORIGINS": f"{ORIGIN},{OTHER_ORIGIN}",
        "POWERTOOLS_SERVICE_NAME": "films",
        "POWERTOOLS_LOGGER_LOG_EVENT": "true",  # must have no effect, because events contain names
    }


@pytest.fixture(scope="module")
def with_endpoint(start: Start) -> Iterator[Function]:
    """The bucket's function, which calls the endpoint."""
    with start("on_upload") as function:
        yield function


@pytest.fixture(scope="module")
def in_process(start: Start) -> Iterator[Function]:
    """The bucket's function, which runs the model in its own process."""
    with start("on_upload", PNEUMOSCOPE_ENDPOINT="") as function:
        yield function


@pytest.fixture(scope="module")
def api(start: Start) -> Iterator[Function]:
    with start("api") as function:
        yield function


class Bucket:
    """The bucket with films and results, with a folder for each test."""

    def __init__(self, local: LocalCloud, folder: str) -> None:
        self._s3 = local.client("s3")
        self._folder = folder

    def put(self, data: bytes, name: str = NAME) -> dict[str, Any]:
        """Upload a film; return EventBridge's event."""
        key = f"films/{self._folder}/{name}"
        version = self._s3.put_object(Bucket=BUCKET, Key=key, Body=data)["VersionId"]
        return from_eventbridge(BUCKET, key, version=version)

    def result(self, name: str = NAME) -> Any:
        """The stored result of a film."""
        reply = self._s3.get_object(Bucket=BUCKET, Key=f"results/{self._folder}/{name}.json")
        assert reply["ContentType"] == "application/json"
        return json.loads(reply["Body"].read())

    def results(self) -> list[str]:
        """Names of all results stored for the test, once per version."""
        found = self._s3.list_object_versions(Bucket=BUCKET, Prefix=f"results/{self._folder}/")
        names = [each["Key"].rpartition("/")[2] for each in found.get("Versions", [])]
        return [name for name in names if name.endswith(".json")]

    def delete(self, event: dict[str, Any]) -> None:
        stored = event["detail"]["object"]
        self._s3.delete_object(Bucket=BUCKET, Key=stored["key"], VersionId=stored["version-id"])


@pytest.fixture
def bucket(local: LocalCloud, request: pytest.FixtureRequest) -> Bucket:
    return Bucket(local, request.node.name)


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """A prediction without its duration and without the notice."""
    return {name: value for name, value in document.items() if name not in ("milliseconds", "notice")}


def done(outcome: Outcome, *, films: int = 1, ignored: int = 0) -> Outcome:
    """Check that a call succeeded and counted these films; return its outcome."""
    assert outcome.error is None, outcome.error
    assert outcome.answer == {"films": films, "ignored": ignored}
    return outcome


@pytest.mark.parametrize(("way", "how"), [("with_endpoint", "endpoint"), ("in_process", "in-process")])
def test_a_film_in_the_bucket_becomes_a_result_and_a_line_of_log(
    request: pytest.FixtureRequest, bucket: Bucket, engine: Engine, way: str, how: str
) -> None:
    expected = engine.predict(FILM).as_json()
    event = bucket.put(FILM)
    outcome = done(request.getfixturevalue(way).invoke(event))
    result = bucket.result()
    assert comparable(result["decision"]) == comparable(expected)
    assert result["decision"]["notice"] == DISCLAIMER
    parse_decision(result["decision"], "notice")
    stored = event["detail"]["object"]
    assert result["film"]["bucket"] == BUCKET
    assert result["film"]["key"] == stored["key"]
    assert result["film"]["version"] == stored["version-id"]
    assert result["film"]["bytes"] == len(FILM)
    assert result["film"]["sequencer"] == stored["sequencer"]
    (line,) = outcome.lines(LOG)
    assert line["status"] == expected["status"]
    assert line["label"] == expected["label"]
    assert line["probabilities"] == expected["probabilities"]
    assert line["reason_codes"] == expected["reason_codes"]
    assert line["model"] == expected["model"]["sha256"]
    assert line["how"] == how
    assert not line["shrunk"]
    assert line["bytes"] == len(FILM)
    assert result["how"] == how
    assert not result["shrunk"]
    assert result["request_id"] == line["function_request_id"]


def test_decisions_are_counted(with_endpoint: Function, bucket: Bucket) -> None:
    """In CloudWatch's embedded metric format, per status and in total."""
    for data, rejected in ((FILM, 0), (TEXT, 1)):
        (line,) = done(with_endpoint.invoke(bucket.put(data))).metrics
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == "Pneumoscope"
        assert {each["Name"] for each in directive["Metrics"]} == {"Decisions", "Rejected", "Milliseconds"}
        assert [sorted(names) for names in directive["Dimensions"]] == [["service"], ["service", "status"]]
        assert line["Decisions"] == [1.0]
        assert line["Rejected"] == [float(rejected)]
        assert (line["status"] == "rejected") == bool(rejected)
        assert line["Milliseconds"][0] > 0


@pytest.mark.parametrize("kind", [from_eventbridge, from_s3])
@pytest.mark.parametrize(
    "name",
    ["a b.png", "a+b.png", "50%.png", "a%20b%2Bc.png", "ü 影 é.png", "?x=1&y#z.png", "deep/er/a.png", "no-suffix"],
)
def test_keys_are_decoded_as_each_source_encodes_them(
    with_endpoint: Function, bucket: Bucket, kind: Callable[..., dict[str, Any]], name: str
) -> None:
    """EventBridge does not encode keys, S3 itself does."""
    name = f"Wintergreen {name}"
    stored = bucket.put(FILM, name)["detail"]["object"]
    done(with_endpoint.invoke(kind(BUCKET, stored["key"], version=stored["version-id"])))
    assert bucket.result(name)["film"]["key"] == stored["key"]
    assert bucket.result(name)["decision"]["status"] == "answered"


def test_events_of_another_implementation_of_s3_are_understood(
    local: LocalCloud, with_endpoint: Function, bucket: Bucket
) -> None:
    """Moto's own events, from S3 and through EventBridge; S3's test event comes first."""
    s3, sqs, rules = (local.client(name) for name in ("s3", "sqs", "events"))
    queue = sqs.create_queue(QueueName="events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rules.put_rule(Name="films", EventPattern=json.dumps({"source": ["aws.s3"]}))
    rules.put_targets(Rule="films", Targets=[{"Id": "queue", "Arn": arn}])
    here = [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]
    notification = {"QueueConfigurations": here, "EventBridgeConfiguration": {}}
    s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration=notification)
    bucket.put(FILM)
    s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration={})
    messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    events = [json.loads(message["Body"]) for message in messages]
    assert [event.get("detail-type") for event in events] == [None, None, "Object Created", "Object Tags Added"]
    assert [with_endpoint.invoke(event).answer["films"] for event in events] == [0, 1, 1, 0]
    assert set(bucket.results()) == {f"{NAME}.json"}


def test_an_upload_is_decided_on_once(with_endpoint: Function, bucket: Bucket) -> None:
    """Events are delivered at least once, and S3 and EventBridge may both report the same upload."""
    event = bucket.put(FILM)
    stored = event["detail"]["object"]
    again = from_s3(BUCKET, stored["key"], version=stored["version-id"], sequencer="other")
    outcomes = [done(with_endpoint.invoke(each)) for each in (event, event, again)]
    assert [len(outcome.lines(LOG)) for outcome in outcomes] == [1, 0, 0]
    assert len(bucket.results()) == 1
    done(with_endpoint.invoke(bucket.put(TEXT)))  # another version under the same key
    assert bucket.result()["decision"]["status"] == "rejected"
    assert len(bucket.results()) == 2


def test_without_versions_uploads_are_distinguished_by_their_sequencer(with_endpoint: Function, bucket: Bucket) -> None:
    key = bucket.put(FILM)["detail"]["object"]["key"]
    for version in (None, "null"):
        for sequencer in ("0A", "0B"):
            event = from_eventbridge(BUCKET, key, version=version, sequencer=sequencer)
            assert len(done(with_endpoint.invoke(event)).lines(LOG)) == (version is None)


def test_a_late_event_does_not_replace_a_newer_films_result(
    with_endpoint: Function, in_process: Function, bucket: Bucket
) -> None:
    """A film waits for a busy endpoint, and is meanwhile replaced by a better one."""
    for number, function in enumerate((with_endpoint, in_process)):
        name = f"film-{number}.png"
        events = [bucket.put(data, name) for data in (FILM, TEXT, FILM)]
        for event, sequencer in zip(
            events, ("0055AED6DCD90281E5", "0055AED6DCD90281F5", "0055AED6DCD90281F5A0"), strict=True
        ):
            event["detail"]["object"]["sequencer"] = sequencer
        statuses = []
        for event in (events[1], events[0], events[2]):
            done(function.invoke(event))
            statuses.append(bucket.result(name)["decision"]["status"])
        assert statuses == ["rejected", "rejected", "answered"]


def test_a_dead_letter_can_be_sent_again(with_endpoint: Function, bucket: Bucket) -> None:
    """In Lambda's record of an event that failed ("Lambda: capturing records of asynchronous invocations")."""
    letter = {
        "version": "1.0",
        "timestamp": "2026-11-23T12:00:00.000Z",
        "requestContext": {"condition": "RetriesExhausted", "approximateInvokeCount": 3},
        "requestPayload": bucket.put(FILM),
        "responseContext": {"statusCode": 200, "functionError": "Unhandled"},
        "responsePayload": {"errorType": "BusyError", "errorMessage": "endpoint films is busy"},
    }
    assert done(with_endpoint.invoke(letter)).answer["films"] == 1
    assert bucket.result()["decision"]["status"] == "answered"


def test_a_films_pseudonym_confirms_no_guess_and_is_the_same_in_every_line(
    local: LocalCloud, start: Start, with_endpoint: Function, in_process: Function, bucket: Bucket
) -> None:
    """Its key is known to the stack only; lines of failures have it, too."""
    event = bucket.put(FILM)
    with start("on_upload", AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=nowhere(), PNEUMOSCOPE_SECONDS="2") as stopped:
        (failed,) = stopped.invoke(event).lines("failed")
    assert failed["level"] == "ERROR"
    assert "cannot be reached" in failed["reason"]
    (line,) = done(with_endpoint.invoke(event)).lines(LOG)
    (again,) = done(in_process.invoke(bucket.put(TEXT))).lines(LOG)
    assert failed["film"] == line["film"] == again["film"]
    names = (BUCKET, event["detail"]["object"]["key"])
    assert not hashlib.sha256("\0".join(names).encode()).hexdigest().startswith(line["film"])
    item = local.client("dynamodb").get_item(TableName=TABLE, Key={"id": {"S": PSEUDONYM_KEY_ITEM}})["Item"]
    key = bytes(item["hmac_key"]["B"])
    assert len(key) == 32
    assert hmac.new(key, "\0".join(names).encode(), "sha256").hexdigest().startswith(line["film"])


def test_a_running_call_excludes_others_until_its_time_limit(
    local: LocalCloud, with_endpoint: Function, bucket: Bucket
) -> None:
    table = local.client("dynamodb")
    before = {PSEUDONYM_KEY_ITEM} | {item["id"]["S"] for item in table.scan(TableName=TABLE)["Items"]}
    event = bucket.put(FILM)
    done(with_endpoint.invoke(event))
    (item,) = [item for item in table.scan(TableName=TABLE)["Items"] if item["id"]["S"] not in before]
    assert "Wintergr" not in json.dumps(item)
    now = int(time.time() * 1000)
    assert now < int(item["in_progress_expiration"]["N"]) < now + 61_000  # when Lambda would have stopped it
    table.put_item(
        TableName=TABLE, Item=item | {"status": {"S": "INPROGRESS"}, "in_progress_expiration": {"N": str(now + 60_000)}}
    )
    error = with_endpoint.invoke(event).error
    assert error is not None
    assert error["errorType"] == "BusyError"
    assert "is deciding on this film" in error["errorMessage"]
    table.put_item(
        TableName=TABLE, Item=item | {"status": {"S": "INPROGRESS"}, "in_progress_expiration": {"N": str(now - 60_000)}}
    )
    assert len(done(with_endpoint.invoke(event)).lines(LOG)) == 1


@pytest.mark.parametrize("data", [TEXT, BLANK, b""], ids=["text", "blank", "empty"])
def test_a_file_that_is_not_a_film_has_a_result_and_is_no_error(
    with_endpoint: Function, in_process: Function, bucket: Bucket, engine: Engine, data: bytes
) -> None:
    """The same with and without an endpoint, and equal to the engine's own decision."""
    for function in (with_endpoint, in_process):
        (line,) = done(function.invoke(bucket.put(data))).lines(LOG)
        decided = bucket.result()["decision"]
        assert comparable(decided) == comparable(engine.predict(data).as_json())
        assert decided["reasons"]
        assert line["status"] == "rejected"
        assert line["reason_codes"] == decided["reason_codes"]


def test_a_missing_or_huge_film_is_rejected_for_good(with_endpoint: Function, bucket: Bucket) -> None:
    event = bucket.put(FILM)
    bucket.delete(event)
    done(with_endpoint.invoke(event))
    result = bucket.result()
    assert result["film"]["bytes"] is None
    assert result["film"]["etag"] is None
    assert result["decision"]["reason_codes"] == ["unreadable"]
    assert "no longer exists" in result["decision"]["reasons"][0]
    before = with_endpoint.peak()
    done(with_endpoint.invoke(bucket.put(bytes(100_000_001))))
    assert with_endpoint.peak() < before + 50  # it was not read
    result = bucket.result()
    assert result["film"]["bytes"] == 100_000_001
    assert result["decision"]["reasons"] == ["the file has 100,000,001 bytes; at most 100,000,000 are accepted."]


@pytest.fixture(scope="module")
def large() -> bytes:
    """A film of about 7 MB, above the limits of endpoint and API."""
    data = encode(Image.fromarray(film("virus", patient=5, size=(2600, 2800))), compress_level=0)
    assert len(data) > limits.REALTIME
    return data


def test_a_film_above_the_endpoints_limit_is_shrunk_without_changing_the_decision(
    with_endpoint: Function, bucket: Bucket, engine: Engine, large: bytes
) -> None:
    (line,) = done(with_endpoint.invoke(bucket.put(large))).lines(LOG)
    result = bucket.result()
    assert result["shrunk"]
    assert line["shrunk"]
    assert result["film"]["bytes"] == len(large)
    assert comparable(result["decision"]) == comparable(engine.predict(large).as_json())


def test_other_objects_and_events_are_ignored(local: LocalCloud, with_endpoint: Function) -> None:
    s3 = local.client("s3")
    before = s3.list_object_versions(Bucket=BUCKET).get("Versions", [])
    removed = from_eventbridge(BUCKET, "films/Wintergreen.png") | {"detail-type": "Object Deleted"}
    lost = from_s3(BUCKET, "films/Wintergreen.png")
    lost["Records"][0]["eventName"] = "ObjectRemoved:Delete"
    keys = ("Wintergreen.png", "film/Wintergreen.png", "results/Wintergreen.png.json", "films/Wintergreen/", "films/")
    strange = [from_eventbridge(BUCKET, key) for key in keys]
    for event in (*strange, from_s3("another", "films/Wintergreen.png"), removed, lost):
        outcome = done(with_endpoint.invoke(event), films=0, ignored=1)
        assert len(outcome.lines("ignored")) == 1
        assert not outcome.lines(LOG)
    done(with_endpoint.invoke({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": BUCKET}), films=0)
    assert s3.list_object_versions(Bucket=BUCKET).get("Versions", []) == before


def test_one_invalid_record_does_not_stop_the_others(
    local: LocalCloud, with_endpoint: Function, bucket: Bucket
) -> None:
    """The event comes again because of the bad one; what is done stays done."""
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


def queue_url(local: LocalCloud) -> str:
    return str(local.client("sqs").get_queue_url(QueueName=DEAD_LETTERS)["QueueUrl"])


def dead_letters(local: LocalCloud) -> list[Any]:
    """Take the events out of the dead-letter queue."""
    sqs, queue = local.client("sqs"), queue_url(local)
    messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    for message in messages:
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return [json.loads(message["Body"]) for message in messages]


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


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"PNEUMOSCOPE_ENDPOINT": "others"}, "CloudError", "endpoint others: "),
        ({"AWS_ENDPOINT_URL_S3": "nowhere"}, "BusyError", "reading the film: AWS answers EndpointConnectionError; "),
        ({"PNEUMOSCOPE_TABLE": "others"}, "CloudError", "table others cannot be used"),
        ({"PNEUMOSCOPE_ENDPOINT": "", "PNEUMOSCOPE_MODEL": "s3://models/a.tar.gz"}, "CloudError", "models/a.tar.gz"),
        ({"PNEUMOSCOPE_ENDPOINT": "", "PNEUMOSCOPE_MODEL": "s3://models/bad.tar.gz"}, "BundleError", "model.tar.gz"),
    ],
)
def test_failures_that_an_operator_must_fix_are_raised(
    local: LocalCloud, start: Start, bucket: Bucket, changes: dict[str, str], kind: str, words: str
) -> None:
    local.client("s3").put_object(Bucket="models", Key="bad.tar.gz", Body=b"no archive")
    changes = {name: value.replace("nowhere", nowhere()) for name, value in changes.items()}
    with start("on_upload", **changes) as function:
        error = function.invoke(bucket.put(FILM)).error
    assert error is not None
    assert error["errorType"] == kind, error
    assert words in error["errorMessage"], error
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


def call(function: Function, event: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    """The status, the headers by lower-case name, and the JSON document of an answer, as API Gateway sends it."""
    outcome = function.invoke(event)
    assert outcome.error is None, outcome.error
    answer = outcome.answer
    if event.get("version") == "2.0":
        headers = {name.lower(): value for name, value in answer["headers"].items()}
    else:
        headers = {name.lower(): ",".join(values) for name, values in answer["multiValueHeaders"].items()}
    assert answer["isBase64Encoded"] is False
    return answer["statusCode"], headers, json.loads(answer["body"] or "null")


def problem(function: Function, event: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Check that an answer is a problem document like the service's; return it and the headers."""
    status, headers, document = call(function, event)
    assert headers["content-type"] == MEDIA_TYPE
    assert set(document) - {"upload"} == set(ProblemDocument.model_fields)
    assert document["status"] == status
    assert document["title"] == HTTPStatus(status).phrase
    assert document["request_id"] == headers["x-request-id"]
    return document, headers


@pytest.mark.parametrize("version", CALLS)
def test_a_posted_film_is_answered(api: Function, engine: Engine, version: str) -> None:
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
    pixels = np.random.default_rng(4).integers(0, 4000, (90, 80), dtype=np.uint16)
    data = dicoms.dicom(pixels)
    assert dicoms.NAME.encode() in data
    status, _, document = call(api, from_http_api("POST", "/predictions", data, content_type="application/dicom"))
    assert status == HTTPStatus.OK
    done(in_process.invoke(bucket.put(data)))
    assert bucket.result()["decision"]["probabilities"] == document["probabilities"]


@pytest.mark.parametrize("version", CALLS)
@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
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
    api: Function, version: str, body: bytes | str | None, headers: dict[str, str], status: int, words: str
) -> None:
    document, _ = problem(api, CALLS[version]("POST", "/predictions", body, **headers))
    assert document["status"] == status, document
    assert words in document["detail"], document


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


def upload(place: dict[str, Any], data: bytes) -> int:
    """Upload a film with the API's form, as any HTTP client can; return the status."""
    url, boundary = urlsplit(place["url"]), uuid.uuid4().hex
    fields = [f'name="{name}"\r\n\r\n{value}' for name, value in place["fields"].items()]
    last = f'name="{place["file"]}"; filename="film"\r\nContent-Type: application/octet-stream\r\n\r\n'
    parts = (*(f"{each}\r\n" for each in fields), last)
    head = "".join(f"--{boundary}\r\nContent-Disposition: form-data; {part}" for part in parts)
    body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    assert url.hostname is not None
    with closing(HTTPConnection(url.hostname, url.port)) as connection:
        connection.request(place["method"], url.path or "/", body, headers)
        return connection.getresponse().status


def form_policy(place: dict[str, Any]) -> dict[str, Any]:
    """The policy of an upload form, which S3 enforces."""
    return dict(json.loads(base64.b64decode(place["fields"]["policy"])))


@pytest.mark.parametrize("version", CALLS)
def test_a_large_film_goes_through_the_bucket(
    api: Function, with_endpoint: Function, engine: Engine, large: bytes, version: str
) -> None:
    """The API refuses it with an upload form; the bucket's function decides on it."""
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
    """By the time in its id, the form has expired and no event can still be on its way."""
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


def test_a_stopped_endpoint_is_a_503(start: Start) -> None:
    with start("api", AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=nowhere(), PNEUMOSCOPE_CORS_ORIGINS="") as function:
        event = from_http_api("POST", "/predictions", FILM, content_type="image/jpeg")
        document, headers = problem(function, event)
        assert document["status"] == 503
        assert headers["retry-after"] == "5"
        assert "busy" in function.log
        document, _ = problem(function, from_rest_api("OPTIONS", "/predictions", Origin=ORIGIN))
        assert document["status"] == HTTPStatus.NOT_FOUND  # without origins, preflight requests are not answered


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
    ("name", "value", "words"),
    [
        ("PNEUMOSCOPE_MODEL", "", "PNEUMOSCOPE_MODEL is missing"),
        ("PNEUMOSCOPE_MODEL", "models/model.tar.gz", "s3://BUCKET/PREFIX"),
        ("PNEUMOSCOPE_MODEL", "s3://models/tiny", "must end with .tar.gz"),
        ("PNEUMOSCOPE_RESULTS_PREFIX", "films/results/", "contain each other"),
        ("PNEUMOSCOPE_RESULTS_PREFIX", "films/", "contain each other"),
        ("PNEUMOSCOPE_FILMS_PREFIX", "results/films/", "contain each other"),
        ("PNEUMOSCOPE_FILMS_PREFIX", "films", "PNEUMOSCOPE_FILMS_PREFIX is 'films'"),
        ("PNEUMOSCOPE_CORS_ORIGINS", "pacs.example", "PNEUMOSCOPE_CORS_ORIGINS is 'pacs.example'"),
        ("PNEUMOSCOPE_ENDPOINT_LIMIT", "6 MB", "PNEUMOSCOPE_ENDPOINT_LIMIT is '6 MB'"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_sentence(name: str, value: str, words: str) -> None:
    given = {"PNEUMOSCOPE_MODEL": "s3://models/model.tar.gz", "PNEUMOSCOPE_BUCKET": BUCKET, "PNEUMOSCOPE_TABLE": TABLE}
    assert Settings.read(given).endpoint_limit == limits.REALTIME
    with pytest.raises(UsageError) as caught:
        Settings.read(given | {name: value})
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


def test_the_official_emulator_runs_a_function(local: LocalCloud, service: Service, engine: Engine) -> None:
    """The same handler and event, with AWS's own implementation of the Runtime API."""
    program = official_emulator()
    if program is None:
        pytest.skip("aws-sam-cli is not installed, and PNEUMOSCOPE_LAMBDA_EMULATOR does not name an aws-lambda-rie")
    event = from_http_api("POST", "/predictions", FILM, content_type="image/jpeg")
    outcome = invoke_in_emulator(program, "pneumoscope.aws.functions.api.handler", environment(local, service), event)
    assert comparable(json.loads(outcome.answer["body"])) == comparable(engine.predict(FILM).as_json())
    assert len(outcome.lines(LOG)) == 1
