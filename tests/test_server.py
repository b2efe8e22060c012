"""The HTTP API, used over a socket."""

import base64
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import pytest
from PIL import Image

import dicoms
from pneumoscope import __version__
from pneumoscope.contract import DISCLAIMER, load_contract
from pneumoscope.engine import Engine
from pneumoscope.engine.reference import load_reference
from pneumoscope.phantom import encode_jpeg, film
from samples import encode, parse_decision, without
from service import Service, form, problem, samples_of, serving

FILM = encode_jpeg(film("virus", patient=2, size=(200, 240)))
OTHER = encode(Image.fromarray(film("normal", patient=3, size=(180, 170))))
ORIGIN = "https://pacs.example"


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Service]:
    with serving(tiny_bundle, "--cors-origin", ORIGIN, "--max-bytes", 3_000_000, "--read-seconds", 2) as running:
        yield running
        assert "Traceback" not in running.log
        assert running.stop() == 0


def test_http_gives_the_engines_decision(service: Service, tiny_bundle: Path) -> None:
    engine = Engine.load(tiny_bundle)
    for data, kind in ((FILM, "image/jpeg"), (OTHER, "image/png"), (dicoms.dicom(deep_film()), "application/dicom")):
        reply = service.post("/v1/predictions", data, kind)
        assert reply.status == HTTPStatus.OK
        expected = without(engine.predict(data).as_json(), "milliseconds")
        assert without(reply.json(), "milliseconds", "notice") == expected
        assert reply.json()["notice"] == DISCLAIMER
        assert parse_decision(reply.json(), "notice").status in ("answered", "abstained")
        parse_decision(service.post("/invocations", data, kind).json(), "notice")


def deep_film() -> np.ndarray:
    return film("bacteria", patient=4, size=(180, 160)).astype(np.uint16) * 15


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/JPEG; x=1", "application/octet-stream", "application/x-image"])
def test_accepted_content_types(service: Service, kind: str) -> None:
    """The bytes decide what a file is, not the content type."""
    assert service.post("/v1/predictions", FILM, kind).json()["status"] == "answered"


@pytest.mark.parametrize("kind", [None, "", "text/plain", "image/", "application/json", "application/dicom+json"])
def test_other_content_types_are_415(service: Service, kind: str | None) -> None:
    reply = service.post("/v1/predictions", FILM, kind)
    assert reply.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    assert "image/*" in reply.headers["accept"]
    assert "application/dicom" in problem(reply)["detail"]


def test_an_encoded_body_is_415(service: Service) -> None:
    reply = service.post("/v1/predictions", FILM, **{"Content-Encoding": "gzip"})
    assert reply.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    assert reply.headers["accept-encoding"] == "identity"


def test_a_form_of_several_films(service: Service) -> None:
    body, kind = form(("a.jpeg", FILM), ("ü \u00e9.png", OTHER), ("c.txt", b"words"))
    reply = service.post("/v1/predictions", body, kind)
    assert reply.status == HTTPStatus.OK
    documents = reply.json()["predictions"]
    assert [document["image"] for document in documents] == ["a.jpeg", "ü é.png", "c.txt"]
    assert [document["status"] for document in documents] == ["answered", "answered", "rejected"]
    assert documents[2]["reason_codes"] == ["undecodable"]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (*form(), "no film"),
        (*form(("a.jpeg", b"")), "no film"),
        (*form(("a.jpeg", FILM), fields={"patient": "x"}), "form cannot be read"),
        (*form(*[("a.jpeg", b"x")] * 33), "up to 32"),
        (FILM, "multipart/form-data", "boundary"),
        (FILM, "multipart/form-data; boundary=xyz", "form cannot be read"),
        (b"", "image/jpeg", "no film"),
    ],
    ids=["empty-form", "empty-film", "field", "33-films", "no-boundary", "other-boundary", "no-body"],
)
def test_malformed_is_400(service: Service, body: bytes, kind: str, message: str) -> None:
    reply = service.post("/v1/predictions", body, kind)
    assert reply.status == HTTPStatus.BAD_REQUEST
    assert message in problem(reply)["detail"]


def test_bytes_that_are_not_an_image_are_422(service: Service) -> None:
    for body, kind in ((b"words", "image/jpeg"), form(("a.txt", b"words")), (FILM[:900], "image/jpeg")):
        reply = service.post("/v1/predictions", body, kind)
        assert reply.status == HTTPStatus.UNPROCESSABLE_ENTITY
        assert re.search(r"not an accepted image|the file is damaged|cannot decode", problem(reply)["detail"])
    lenient = service.post("/v1/predictions", b"words", Prefer="respond-async, handling=lenient")
    assert lenient.status == HTTPStatus.OK
    assert lenient.json()["status"] == "rejected"


def test_anything_but_a_frontal_chest_film_is_200_and_rejected(service: Service) -> None:
    lateral = dicoms.dicom(deep_film(), ViewPosition="LL")
    blank = encode(Image.new("L", (90, 90), 7))
    for body, code in ((lateral, "view"), (blank, "blank"), (dicoms.dicom(deep_film(), Modality="MR"), "modality")):
        reply = service.post("/v1/predictions", body, "application/octet-stream")
        assert reply.status == HTTPStatus.OK
        assert reply.json()["status"] == "rejected"
        assert reply.json()["reason_codes"] == [code]
        parse_decision(reply.json(), "notice")


def test_level_group_answers_with_the_groups_name(service: Service) -> None:
    document = service.post("/v1/predictions?level=group", FILM).json()
    shares = document["groups"] | {"normal": document["probabilities"]["normal"]}
    assert document["label"] == max(shares, key=shares.__getitem__)
    assert document["class"] == (1 if document["label"] == "normal" else None)


def test_a_request_chooses_a_coverage_or_an_operating_point(service: Service) -> None:
    wide = service.post("/v1/predictions?coverage=0.99", FILM).json()
    assert (wide["status"], wide["coverage"], wide["reason_codes"]) == ("abstained", 0.99, ["several-classes"])
    for point, label in (("sensitivity-0.95", "pneumonia"), ("specificity-0.95", "normal")):
        document = service.post(f"/v1/predictions?operating_point={point}", FILM).json()
        assert (document["label"], document["coverage"]) == (label, None)
    for query, words in (("coverage=0.8", "accepted: 0.9 or 0.99"), ("operating_point=best", "accepted: sensitivity-")):
        reply = service.post(f"/v1/predictions?{query}", FILM)
        assert reply.status == HTTPStatus.BAD_REQUEST
        assert words in problem(reply)["detail"]
    parameters = service.get("/openapi.json").json()["paths"]["/v1/predictions"]["post"]["parameters"]
    accepted = {each["name"]: each["schema"].get("enum") for each in parameters}
    assert accepted["coverage"] == [0.9, 0.99]
    assert accepted["operating_point"] == ["sensitivity-0.95", "specificity-0.95"]


def test_heat_map_as_numbers_and_as_a_picture(service: Service, tiny_bundle: Path) -> None:
    prediction = Engine.load(tiny_bundle).predict(FILM)
    assert prediction.maps is not None
    maps = service.post("/v1/predictions?heatmap=maps", FILM).json()["maps"]
    assert list(maps) == list(prediction.classes)
    np.testing.assert_allclose(np.array(list(maps.values())), prediction.maps, rtol=1e-3)
    overlay = service.post("/v1/predictions?heatmap=overlay", FILM).json()["overlay"]
    assert picture(overlay).mode == "RGB"
    for asked, name in (("heatmap=maps", "maps"), ("heatmap=overlay", "overlay"), ("preview=true", "preview")):
        lenient = service.post(f"/v1/predictions?{asked}", b"words", Prefer="handling=lenient").json()
        assert lenient[name] is None


def test_preview_is_the_film_as_it_was_read(service: Service) -> None:
    """Upright, MONOCHROME1 inverted, in 8 bits: a browser could not show the DICOM file itself."""
    values = np.linspace(100, 3000, 90 * 80).reshape(90, 80).astype(np.uint16)
    for photometric, rising in (("MONOCHROME2", True), ("MONOCHROME1", False)):
        body = dicoms.dicom(values, PhotometricInterpretation=photometric)
        shown = picture(service.post("/v1/predictions?preview=true", body, "application/dicom").json()["preview"])
        assert shown.mode == "L"
        assert shown.size == (80, 90)
        column = np.asarray(shown)[:, 0].astype(int)
        assert (column[-1] > column[0]) is np.bool_(rising)


def picture(text: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize("query", ["level=lobe", "heatmap=yes", "preview=perhaps", "level=class&level=x"])
def test_an_option_out_of_range_is_400(service: Service, query: str) -> None:
    reply = service.post(f"/v1/predictions?{query}", FILM)
    assert reply.status == HTTPStatus.BAD_REQUEST
    assert "query." in problem(reply)["detail"]


def test_unknown_address_and_method(service: Service) -> None:
    assert "/docs" in problem(service.get("/v2/predictions"))["detail"]
    reply = service.get("/v1/predictions")
    assert reply.status == HTTPStatus.METHOD_NOT_ALLOWED
    assert reply.headers["allow"] == "POST"
    problem(reply)


def test_a_body_that_is_too_large_is_413_with_and_without_a_length(service: Service) -> None:
    """With a length it is refused before it is read; without one, while it is read."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 3000001\r\n\r\n"
        )
        assert connection.recv(2000).startswith(b"HTTP/1.1 413 ")
    parts = (bytes(100_000) for _ in range(40))
    reply = service.request("POST", "/v1/predictions", parts, headers={"Content-Type": "image/jpeg"})
    assert reply.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert "3,000,000" in problem(reply)["detail"]


def test_a_body_that_does_not_come_is_408(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\nabc"
        )
        response = b"".join(iter(lambda: connection.recv(4000), b""))  # until the server closes the connection
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"within 2 s" in response


def test_a_request_id_that_is_not_a_uuid_is_replaced(service: Service) -> None:
    mine = "0b0b1c9e-6f7d-4a52-9c37-2f5d0d3c7e11"
    assert service.get("/healthz", **{"X-Request-Id": mine}).headers["x-request-id"] == mine
    other = service.get("/healthz", **{"X-Request-Id": "Ada Wintergreen"}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", other)


def test_health_and_sagemakers_contract(service: Service) -> None:
    assert service.get("/healthz").json() == {"status": "alive"}
    for path in ("/readyz", "/ping"):
        assert service.get(path).status == HTTPStatus.OK
        assert service.get(path).json() == {"status": "ready"}
    expected = without(service.post("/v1/predictions", FILM).json(), "milliseconds")
    for kind in ("application/x-image", "image/jpeg", "application/octet-stream"):
        assert without(service.post("/invocations", FILM, kind).json(), "milliseconds") == expected
    body, kind = form(("a.jpeg", FILM))
    assert service.post("/invocations", body, kind).status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


def test_the_model_is_described(service: Service, tiny_bundle: Path) -> None:
    document = service.get("/v1/model").json()
    assert document["contract"] == load_contract(tiny_bundle).model_dump(mode="json")
    assert document["card"]["notice"] == document["service"]["notice"] == DISCLAIMER
    assert document["service"]["max_bytes"] == 3_000_000
    assert document["service"]["version"] == __version__


def test_only_the_named_origins_may_send_requests(service: Service) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    allowed = service.request("OPTIONS", "/v1/predictions", headers={"Origin": ORIGIN} | asked)
    assert allowed.status == HTTPStatus.OK
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    stranger = service.request("OPTIONS", "/v1/predictions", headers={"Origin": "https://evil.example"} | asked)
    assert "access-control-allow-origin" not in stranger.headers
    assert service.post("/v1/predictions", FILM, Origin=ORIGIN).headers["access-control-allow-origin"] == ORIGIN


def test_responses_carry_safe_headers(service: Service) -> None:
    for reply in (service.get("/"), service.get("/docs"), service.post("/v1/predictions", FILM)):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert "server" not in reply.headers


def test_the_documentation_needs_no_network(service: Service) -> None:
    page = service.get("/docs").body.decode()
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 4
    assert all(":" not in link and service.get(urljoin("/docs", link)).status == HTTPStatus.OK for link in links)
    document = service.get("/openapi.json").json()
    assert document["info"]["description"] == DISCLAIMER
    assert set(document["paths"]) == {
        *("/v1/predictions", "/v1/model", "/healthz", "/readyz", "/metrics"),
        *("/invocations", "/ping", "/execution-parameters"),
    }


def test_schemathesis_finds_nothing(service: Service) -> None:
    """The OpenAPI document is correct: what it allows is accepted, what it forbids is refused as documented."""
    done = subprocess.run(
        [Path(sys.executable).parent / "schemathesis", "run", f"{service.url}/openapi.json", "--max-examples", "40"],
        env=os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_films", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout


def test_metrics_count_films_and_requests(tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as service:
        for body in (FILM, FILM, OTHER, b"words", dicoms.dicom(deep_film(), ViewPosition="LL")):
            service.post("/v1/predictions?heatmap=overlay", body, "application/octet-stream")
        shown = samples_of(service.get("/metrics").body.decode())
    statuses = {key: value for key, value in shown.items() if key.startswith("pneumoscope_predictions_total{")}
    assert sum(statuses.values()) == 5
    assert sum(value for key, value in statuses.items() if 'status="rejected"' in key) == 2
    assert shown['pneumoscope_reasons_total{code="undecodable"}'] == 1
    assert shown['pneumoscope_reasons_total{code="view"}'] == 1
    for stage in ("read", "queue", "decode", "draw"):
        assert shown[f'pneumoscope_stage_seconds_count{{stage="{stage}"}}'] == 5
    assert shown['pneumoscope_stage_seconds_count{stage="model"}'] == 3
    assert shown["pneumoscope_input_brightness_count"] == shown["pneumoscope_largest_probability_count"] == 3
    assert sum(value for key, value in shown.items() if key.startswith("pneumoscope_most_probable_total{")) == 3
    assert shown["pneumoscope_embedding_distance_count"] == 3
    reference = load_reference(tiny_bundle, load_contract(tiny_bundle))
    assert reference is not None
    outputs = [Engine.load(tiny_bundle).predict(body).outputs for body in (FILM, FILM, OTHER)]
    distances = [float(reference.distance(each.embedding)) for each in outputs if each is not None]
    assert shown["pneumoscope_embedding_distance_sum"] == pytest.approx(sum(distances), rel=1e-3)
    expected = reference.about.answers.abstained
    assert shown['pneumoscope_reference_share{label="",quantity="abstained"}'] == pytest.approx(expected)
    assert shown["pneumoscope_queue_films"] == shown["pneumoscope_buffered_bytes"] == 0
    assert shown["pneumoscope_ready"] == 1


def test_head_is_get_without_a_body(service: Service) -> None:
    for path in ("/", "/healthz", "/static/page.js"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
            connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            response = b"".join(iter(lambda: connection.recv(4000), b""))  # until the server closes the connection
        head, end, body = response.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert re.search(rb"\ncontent-length: [1-9]", head)
        assert (end, body) == (b"\r\n\r\n", b"")
