"""Scoring from S3 into S3, over HTTP on moto: nothing is lost or doubled; errors are one sentence each."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from account import PLACE, REGION, become_nobody, keys_of
from flaky_proxy import flaky
from local_cloud import LocalCloud
from pneumoscope.aws import scoring as scoring_on_s3
from pneumoscope.aws.scoring import S3Destination, S3Films
from pneumoscope.aws.session import Cloud
from pneumoscope.errors import CloudError
from pneumoscope.imaging import DEFAULT_LIMITS
from pneumoscope.score.archive_scoring import Resources, score_archives
from pneumoscope.score.parts import read_part
from pneumoscope.score.processes import ProcessCrew
from pneumoscope.score.summary import SUMMARY_FILE
from pneumoscope.score.worker import Options
from pneumoscope.settings.aws_names import parse_location
from scoring import SHARD_FILMS, check_each_once, drawn_films, make_films, scorer_of, shards_of

pytestmark = pytest.mark.slow
FILMS = 120
SOURCE, OUT = parse_location(f"s3://{PLACE.bucket}/films"), parse_location(f"s3://{PLACE.bucket}/out")


@pytest.fixture(autouse=True)
def fresh_clients() -> Iterator[None]:
    """Clients keep the address and the credentials of the environment in which they were made."""
    scoring_on_s3._cloud.cache_clear()
    yield
    scoring_on_s3._cloud.cache_clear()


@pytest.fixture
def uploaded(aws: Cloud, tmp_path: Path) -> Cloud:
    """Films under a prefix, beside files that are not films."""
    folder = make_films(tmp_path / "films", FILMS)
    for path in sorted(folder.rglob("*.jpeg")):
        put(aws, f"films/{path.relative_to(folder).as_posix()}", path.read_bytes())
    for other in ("films/notes.csv", "films/.hidden.jpeg", "films/empty/", "filmsets/a.jpeg"):
        put(aws, other, b"x")
    return aws


def put(aws: Cloud, key: str, content: bytes) -> None:
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key=key, Body=content)


def films(prefix: str = "films") -> S3Films:
    return S3Films(location=parse_location(f"s3://{PLACE.bucket}/{prefix}"), region=REGION, limits=DEFAULT_LIMITS)


def parts(aws: Cloud) -> dict[str, bytes]:
    s3, destination = aws.client("s3"), S3Destination(location=OUT, region=REGION)
    names = [name for name in destination.names() if name.endswith(".parquet")]
    return {name: s3.get_object(Bucket=OUT.bucket, Key=f"out/{name}")["Body"].read() for name in names}


def test_throttling_and_lost_replies_lose_and_double_nothing(
    uploaded: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "8")
    with flaky(shared_cloud.url) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        summary = score_archives(
            [films()],
            S3Destination(location=OUT, region=REGION),
            tiny_bundle,
            Options(),
            ProcessCrew,
            Resources(cores=2, threads=1),
            films_per_shard=SHARD_FILMS,
        )
    assert min(proxy.done[what] for what in ("busy", "lost PUT", "lost GET", "cut")) > 0, proxy.done
    found = parts(uploaded)
    assert len(found) == summary.shards.total
    check_each_once([row for content in found.values() for row in read_part(content)], FILMS)
    stored = uploaded.client("s3").get_object(Bucket=OUT.bucket, Key=f"out/{SUMMARY_FILE}")["Body"].read()
    assert json.loads(stored)["films"] == FILMS


def test_the_command_scores_from_bucket_to_bucket_and_goes_on(
    uploaded: Cloud, tiny_bundle: Path, command: Callable[..., SimpleNamespace]
) -> None:
    line = ["score", SOURCE, "--out", OUT, "--bundle", tiny_bundle, "--shard-films", 40, "--format", "json", "--quiet"]
    first = command(*line)
    assert first.code == 0, first.err
    assert json.loads(first.out)["films"] == FILMS
    lost = min(parts(uploaded))
    uploaded.client("s3").delete_object(Bucket=OUT.bucket, Key=f"out/{lost}")
    again = json.loads(command(*line).out)
    assert again["shards"]["there"] == again["shards"]["total"] - 1
    check_each_once([row for content in parts(uploaded).values() for row in read_part(content)], FILMS)


@pytest.mark.parametrize("with_key", [False, True])
def test_results_are_encrypted_with_the_key_if_there_is_one(
    uploaded: Cloud,
    shared_cloud: LocalCloud,
    tiny_bundle: Path,
    command: Callable[..., SimpleNamespace],
    *,
    with_key: bool,
) -> None:
    key = shared_cloud.client("kms").create_key()["KeyMetadata"]["KeyId"] if with_key else None
    line = ["score", SOURCE, "--out", OUT, "--bundle", tiny_bundle, "--shard-films", 40, "--quiet"]
    done = command(*line, *(() if key is None else ("--kms-key", key)))
    assert done.code == 0, done.err
    assert keys_of(uploaded, OUT) == {"part": key, "_shards.json": key, SUMMARY_FILE: key}


def test_a_part_is_put_once(uploaded: Cloud, tiny_bundle: Path) -> None:
    destination = S3Destination(location=OUT, region=REGION)
    shard = shards_of(films(), tiny_bundle)[0]
    for _ in range(2):
        scorer_of(films(), destination, tiny_bundle).score(shard, lambda _: None)
    assert destination.publish(shard.name, b"another") is False
    assert {name: len(read_part(content)) for name, content in parts(uploaded).items()} == {shard.name: shard.films}


def test_a_film_that_changed_or_went_is_a_row_with_its_reason(uploaded: Cloud, tiny_bundle: Path) -> None:
    source, destination = films(), S3Destination(location=OUT, region=REGION)
    shards = shards_of(source, tiny_bundle)
    put(uploaded, "films/000/000000.jpeg", drawn_films()[1])
    uploaded.client("s3").delete_object(Bucket=SOURCE.bucket, Key="films/000/000001.jpeg")
    scorer_of(source, destination, tiny_bundle).score(shards[0], lambda _: None)
    first, second, *others = read_part(parts(uploaded)[shards[0].name])
    assert "changed after it was listed" in first.document.reasons[0]
    assert "removed after it was listed" in second.document.reasons[0]
    assert not any(row.unread for row in others)


def test_files_without_a_suffix_are_taken_for_dicom(aws: Cloud) -> None:
    for name in ("1.2.840.113", "IM0001", "DICOMDIR", "readme.md", "a.dcm"):
        put(aws, f"films/{name}", b"x")
    assert [entry.name for entry in films().entries()] == ["1.2.840.113", "IM0001", "a.dcm"]


@pytest.mark.parametrize(
    ("source", "out", "options", "sentence"),
    [
        ("s3://no-such-bucket/films", str(OUT), (), "bucket no-such-bucket does not exist; create it with"),
        (str(SOURCE), "s3://no-such-bucket/out", (), "bucket no-such-bucket does not exist; create it with"),
        (str(SOURCE), str(OUT), ("--region", "us-east-1"), "is in eu-central-1, but this command works in us-east-1"),
        ("s3://films-bucket/nothing", str(OUT), (), "no image file in s3://films-bucket/nothing"),
    ],
)
@pytest.mark.usefixtures("uploaded")
def test_an_unusable_source_or_destination_gives_one_sentence(
    source: str,
    out: str,
    options: tuple[str, ...],
    sentence: str,
    tiny_bundle: Path,
    command: Callable[..., SimpleNamespace],
) -> None:
    done = command("score", source, "--out", out, "--bundle", tiny_bundle, "--quiet", *options)
    assert done.code in (1, 2)
    assert sentence in done.err
    assert done.err.count("\n") == 1


@pytest.mark.usefixtures("uploaded")
def test_a_denial_is_one_sentence(
    shared_cloud: LocalCloud,
    tiny_bundle: Path,
    command: Callable[..., SimpleNamespace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    become_nobody(shared_cloud, monkeypatch)
    line = ["score", SOURCE, "--out", OUT, "--bundle", tiny_bundle, "--quiet"]
    with shared_cloud.guarded():
        done = command(*line, "--region", "eu-central-1")
    assert done.code == 1
    assert "AWS denies access" in done.err
    assert done.err.count("\n") == 1


def test_a_place_that_cannot_be_written_is_detected_first(
    uploaded: Cloud, shared_cloud: LocalCloud, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become_nobody(shared_cloud, monkeypatch)
    read_only = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["s3:Get*", "s3:List*", "s3:HeadBucket"], "Resource": "*"}],
    }
    shared_cloud.client("iam").put_user_policy(
        UserName="nobody", PolicyName="read", PolicyDocument=json.dumps(read_only)
    )

    def refuse(*_: object) -> ProcessCrew:
        raise AssertionError("no worker must start")

    destination = S3Destination(location=OUT, region=REGION)
    with shared_cloud.guarded(), pytest.raises(CloudError, match=r"writing s3://.*denies access"):
        score_archives([films()], destination, tiny_bundle, Options(), refuse, Resources(cores=2))
    assert parts(uploaded) == {}
