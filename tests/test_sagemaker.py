"""SageMaker's container contract against a running service: in a batch transform job, and in an endpoint."""

import hashlib
import json
import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from pneumoscope.contract import load_contract
from pneumoscope.engine import Engine
from pneumoscope.engine.reference import load_reference
from pneumoscope.phantom import encode_jpeg, film
from pneumoscope.settings.serve import BATCH_MEGABYTES, BATCH_VARIABLE, MAX_BYTES_VARIABLE, ServeConfig
from samples import parse_decision, without
from service import Service, serving

FILM = encode_jpeg(film("virus", patient=2, size=(200, 240)))
LIMIT = 3_000_000
KIND = "application/x-image"  # the content type that `aws score` sets


@pytest.fixture(scope="module")
def batch(tiny_bundle: Path) -> Iterator[Service]:
    """The service as a transform job runs it: the job's SageMaker model sets these variables."""
    with serving(tiny_bundle, environment={BATCH_VARIABLE: "decisions", MAX_BYTES_VARIABLE: str(LIMIT)}) as running:
        yield running
        assert "Traceback" not in running.log
        assert running.stop() == 0


def test_a_job_is_offered_limits_that_batch_transform_accepts(batch: Service) -> None:
    offered = batch.get("/execution-parameters")
    assert offered.status == HTTPStatus.OK
    assert offered.headers["content-type"] == "application/json"
    document = offered.json()
    assert set(document) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    assert document["BatchStrategy"] == "SINGLE_RECORD"
    assert document["MaxConcurrentTransforms"] >= 1
    assert 1 <= document["MaxPayloadInMB"] * 1_000_000 <= LIMIT
    assert document["MaxConcurrentTransforms"] <= ServeConfig(bundle=Path("bundle")).queue, "some would get a 503"


def test_the_limits_of_a_service_for_large_films_stay_within_batch_transforms(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--max-bytes", 2 * BATCH_MEGABYTES * 1_000_000) as service:
        document = service.get("/execution-parameters").json()
    assert document["MaxConcurrentTransforms"] > 1
    together = document["MaxConcurrentTransforms"] * document["MaxPayloadInMB"]
    assert BATCH_MEGABYTES / 2 < together <= BATCH_MEGABYTES


def test_a_film_has_the_engines_decision_and_what_a_table_stores_beside_it(batch: Service, tiny_bundle: Path) -> None:
    response = batch.post("/invocations", FILM, KIND).json()
    facts, expected = response.pop("batch"), Engine.load(tiny_bundle).predict(FILM)
    assert parse_decision(response, "notice").status in ("answered", "abstained")
    documents = [without(response, "milliseconds", "notice"), without(expected.as_json(), "milliseconds")]
    assert documents[0] == documents[1]
    assert facts["file_sha256"] == hashlib.sha256(FILM).hexdigest()
    assert facts["shares"] == pytest.approx(response["probabilities"], abs=1e-6)
    reference = load_reference(tiny_bundle, load_contract(tiny_bundle))
    assert reference is not None
    assert expected.outputs is not None
    assert facts["distance"] == pytest.approx(float(reference.distance(expected.outputs.embedding)), rel=1e-4)
    assert facts["embedding"] is None


def test_a_picture_that_the_gate_rejects_still_has_its_shares_for_drift(batch: Service) -> None:
    """Drift is measured over all films that the model was run on."""
    response = batch.post("/invocations", encode_jpeg(255 - film("virus", patient=2, size=(200, 240))), KIND).json()
    assert response["status"] == "rejected"
    assert response["probabilities"] == {}
    assert sum(response["batch"]["shares"].values()) == pytest.approx(1)


def test_embeddings_are_sent_if_asked_for(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--batch", "embeddings") as running:
        sent = running.post("/invocations", FILM, KIND).json()["batch"]["embedding"]
    outputs = Engine.load(tiny_bundle).predict(FILM).outputs
    assert outputs is not None
    assert sent == pytest.approx(outputs.embedding.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"words", "undecodable"),
        (FILM[: len(FILM) // 2], "undecodable"),
        (b"", "undecodable"),
        (FILM + bytes(LIMIT), "too-large"),
    ],
    ids=["words", "half", "empty", "large"],
)
def test_a_file_that_is_not_a_film_is_rejected_and_does_not_end_the_job(batch: Service, body: bytes, code: str) -> None:
    reply = batch.post("/invocations", body, KIND)
    assert reply.status == HTTPStatus.OK
    response = reply.json()
    facts = response.pop("batch")
    decision = parse_decision(response, "notice")
    assert decision.status == "rejected"
    assert decision.reason_codes == (code,)
    assert decision.reasons[0]
    assert decision.model.sha256, "the row says which model refused the film"
    is_read = code == "undecodable" and body
    assert facts == {
        "file_sha256": hashlib.sha256(body).hexdigest() if is_read else None,
        "distance": None,
        "shares": {},
        "embedding": None,
    }


def test_a_large_body_without_a_length_is_read_to_its_end(batch: Service) -> None:
    """A connection that closes early would look to SageMaker like a failed call."""
    head = f"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: {KIND}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", batch.port), timeout=30) as connection:
        connection.sendall(head.encode())
        part = bytes(1_000_000)
        for _ in range(9):
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        response = b""
        while b"\r\n\r\n" not in response or not response.rstrip().endswith(b"}"):
            received = connection.recv(65536)
            assert received, response
            response += received
    assert response.startswith(b"HTTP/1.1 200")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["reason_codes"] == ["too-large"]


def test_a_job_with_the_wrong_content_type_still_fails(batch: Service) -> None:
    """A fault of the job and not of a film: with a 200, a million films would be rejected in silence."""
    for kind in (None, "text/csv"):
        assert batch.post("/invocations", FILM, kind).status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


def test_only_invocations_are_lenient(batch: Service) -> None:
    assert batch.post("/v1/predictions", b"words").status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "batch" not in batch.post("/v1/predictions", FILM).json()
    assert batch.get("/ping").status == HTTPStatus.OK


def test_without_the_variable_an_endpoint_is_not_in_batch_mode(tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as endpoint:
        assert endpoint.post("/invocations", b"words", KIND).status == HTTPStatus.UNPROCESSABLE_ENTITY
        assert endpoint.post("/invocations", b"", KIND).status == HTTPStatus.BAD_REQUEST
        assert "batch" not in endpoint.post("/invocations", FILM, KIND).json()
