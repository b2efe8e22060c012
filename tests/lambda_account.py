"""For tests of the Lambda functions: an account like the template's, functions that run in it, and their callers."""

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

import dicoms
from lambda_events import from_eventbridge
from lambda_runtime import Function, Outcome, running
from local_cloud import LocalCloud, cloud
from pneumoscope.aws import limits
from pneumoscope.aws.client.package import write_model_archive
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.server.problems import MEDIA_TYPE, ProblemDocument
from samples import encode
from service import Service

BUCKET, TABLE, DEAD_LETTERS = "films-and-results", "uploads", "dead-letters"
ENDPOINT = "films"
ORIGIN, OTHER_ORIGIN = "https://pacs.example", "https://ward.example"
#: A file name; and parts of file names and of patients' data, which must not be in any log.
NAME = "Wintergr een+50% ü.png"
PLANTED = ("Wintergr", dicoms.NUMBER, dicoms.BORN)
FILM = encode_jpeg(film("virus", patient=2, size=(200, 240)))
TEXT = f"{dicoms.NAME} came with a cough".encode()
BLANK = encode(Image.fromarray(np.zeros((64, 64), dtype=np.uint8)))
#: The message of the log line that each decision leaves; for `Outcome.lines`.
LOG = "decision"

#: Starts the function of a name, with changes of its environment.
Start = Callable[..., AbstractContextManager[Function]]


@cache
def large_film() -> bytes:
    """A film of about 7 MB, above the limits of endpoint and API."""
    data = encode(Image.fromarray(film("virus", patient=5, size=(2600, 2800))), compress_level=0)
    assert len(data) > limits.REALTIME
    return data


@contextmanager
def account(bundle: Path) -> Iterator[LocalCloud]:
    """An account with what the template creates, except the functions."""
    with cloud() as made:
        s3 = made.client("s3")
        place = {"LocationConstraint": "eu-central-1"}
        for bucket in (BUCKET, "models"):
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=place)
        s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        with (bundle.parent / "model.tar.gz").open("wb+") as archive:
            write_model_archive(bundle, archive, for_ray=False)
            archive.seek(0)
            s3.put_object(Bucket="models", Key="tiny/model.tar.gz", Body=archive)
        s3.put_object(Bucket="models", Key="tiny/contract.json", Body=(bundle / "contract.json").read_bytes())
        made.client("dynamodb").create_table(
            TableName=TABLE,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )
        made.client("sqs").create_queue(QueueName=DEAD_LETTERS)
        yield made


def environment(local: LocalCloud, endpoint: Service) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": local.url,
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": endpoint.url,
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


def starter(local: LocalCloud, endpoint: Service) -> Start:
    """Start a function, configured as by the template and with changes; at the end, check that its log has no names."""

    @contextmanager
    def started(name: str, **changes: str) -> Iterator[Function]:
        with running(f"pneumoscope.aws.functions.{name}.handler", environment(local, endpoint) | changes) as function:
            yield function
            assert not [planted for planted in PLANTED if planted in function.log]

    return started


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


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """A prediction without its duration and without the notice."""
    return {name: value for name, value in document.items() if name not in ("milliseconds", "notice")}


def done(outcome: Outcome, *, films: int = 1, ignored: int = 0) -> Outcome:
    """Check that a call succeeded and counted these films; return its outcome."""
    assert outcome.error is None, outcome.error
    assert outcome.response == {"films": films, "ignored": ignored}
    return outcome


def queue_url(local: LocalCloud) -> str:
    return str(local.client("sqs").get_queue_url(QueueName=DEAD_LETTERS)["QueueUrl"])


def dead_letters(local: LocalCloud) -> list[Any]:
    """Take the events out of the dead-letter queue."""
    sqs, queue = local.client("sqs"), queue_url(local)
    messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    for message in messages:
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return [json.loads(message["Body"]) for message in messages]


def call(function: Function, event: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    """The status, the headers by lower-case name, and the JSON document of a response, as API Gateway sends it."""
    outcome = function.invoke(event)
    assert outcome.error is None, outcome.error
    response = outcome.response
    if event.get("version") == "2.0":
        headers = {name.lower(): value for name, value in response["headers"].items()}
    else:
        headers = {name.lower(): ",".join(values) for name, values in response["multiValueHeaders"].items()}
    assert response["isBase64Encoded"] is False
    return response["statusCode"], headers, json.loads(response["body"] or "null")


def problem(function: Function, event: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Check that a response is a problem document like the service's; return it and the headers."""
    status, headers, document = call(function, event)
    assert headers["content-type"] == MEDIA_TYPE
    assert set(document) - {"upload"} == set(ProblemDocument.model_fields)
    assert document["status"] == status
    assert document["title"] == HTTPStatus(status).phrase
    assert document["request_id"] == headers["x-request-id"]
    return document, headers


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
