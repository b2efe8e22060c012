"""The bucket's Lambda function: events become results, once each, with and without an endpoint.

It runs in the real runtime client, with moto as AWS and our own service as the endpoint.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from lambda_account import BLANK, BUCKET, FILM, LOG, NAME, TABLE, TEXT, Bucket, Start, comparable, done, large_film
from lambda_events import from_eventbridge, from_s3
from lambda_runtime import Function, nowhere
from local_cloud import LocalCloud
from pneumoscope.aws.functions.shared import PSEUDONYM_KEY_ITEM
from pneumoscope.contract import DISCLAIMER
from pneumoscope.engine import Engine
from samples import parse_decision


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
    assert [with_endpoint.invoke(event).response["films"] for event in events] == [0, 1, 1, 0]
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
    """A film waits for a busy endpoint, and another upload under its name meanwhile replaces it."""
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


def test_a_films_pseudonym_confirms_no_guess_and_is_the_same_in_every_line(
    local: LocalCloud, start: Start, with_endpoint: Function, in_process: Function, bucket: Bucket
) -> None:
    """Only the stack knows the key of the pseudonym. Lines of failures have the pseudonym, too."""
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


def test_a_film_above_the_endpoints_limit_is_shrunk_without_changing_the_decision(
    with_endpoint: Function, bucket: Bucket, engine: Engine
) -> None:
    large = large_film()
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
