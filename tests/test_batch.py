"""`aws score`: films in S3 through a batch transform job into Parquet parts, over HTTP on moto and a real service."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.sagemaker.models import FakeTransformJob
from pydantic import ValidationError

from account import PLACE, REGION, RecordingListener, become_documented_user, become_nobody, keys_of, run
from batch_transform import FAILURE_REASON, BatchTransform
from local_cloud import LocalCloud
from pneumoscope.aws import scoring
from pneumoscope.aws.client import transform
from pneumoscope.aws.client.batch_scoring import Batch, finish, plan, start
from pneumoscope.aws.client.gather import parse_response
from pneumoscope.aws.client.inventory import status
from pneumoscope.aws.scoring import S3Destination, S3Films
from pneumoscope.aws.session import Cloud, translate_errors
from pneumoscope.contract import load_contract
from pneumoscope.errors import CloudError, UsageError
from pneumoscope.imaging import DEFAULT_LIMITS
from pneumoscope.progress import SILENT, Listener
from pneumoscope.score.archive_scoring import Resources, score_archives
from pneumoscope.score.parts import read_part
from pneumoscope.score.processes import ProcessCrew
from pneumoscope.score.summary import Summary
from pneumoscope.score.tally import Row
from pneumoscope.score.worker import Options
from pneumoscope.settings.aws import Score
from pneumoscope.settings.aws_names import parse_location
from samples import REPOSITORY
from scoring import drawn_films, shards_of
from service import Service, serving

FILMS = 24  # that are sent; the fixture `films` has one more, which is empty
IMAGE = "111111111111.dkr.ecr.eu-central-1.amazonaws.com/pneumoscope:1"
SOURCE, OUT = f"s3://{PLACE.bucket}/films", f"s3://{PLACE.bucket}/scores"


def settings(bundle: Path, **changes: Any) -> Score:
    given: dict[str, Any] = {"source": SOURCE, "out": OUT, "model": bundle, "image": IMAGE, "role": "trainer"}
    return Score(**given | {"shard_films": 6} | changes)


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Service]:
    """The service with the variables of the job's model."""
    container = transform.model_arguments(settings(tiny_bundle), "a", parse_location(OUT), "arn")["PrimaryContainer"]
    with serving(tiny_bundle, environment=container["Environment"]) as running:
        yield running


@pytest.fixture
def films(aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Films in S3 by name; one is damaged, one is empty, one has a name that needs quoting.

    Moto's jobs would start in the state Completed; here they start as InProgress.
    """
    contents = drawn_films()
    made = {f"{number // 10}/{number:03d}.jpeg": contents[number % len(contents)] for number in range(FILMS)}
    made |= {"0/004.jpeg": contents[0][:300], "1/013.jpeg": b"", "a b/Röntgen+1&2%20.jpeg": contents[3]}
    for name, content in (made | {"notes.csv": b"x"}).items():
        aws.client("s3").put_object(Bucket=PLACE.bucket, Key=f"films/{name}", Body=content)
    create = FakeTransformJob.__init__

    def begin(job: FakeTransformJob, *arguments: Any, **named: Any) -> None:
        create(job, *arguments, **named)
        job.transform_job_status = "InProgress"

    monkeypatch.setattr(FakeTransformJob, "__init__", begin)
    scoring._cloud.cache_clear()
    return made


@pytest.fixture
def batches(shared_cloud: LocalCloud, service: Service) -> BatchTransform:
    return BatchTransform(shared_cloud, service, REGION)


def planned(aws: Cloud, bundle: Path, **changes: Any) -> Batch:
    chosen = settings(bundle, **changes)
    source = S3Films(location=chosen.source, region=REGION, limits=DEFAULT_LIMITS)
    return plan(aws, chosen, source, S3Destination(location=chosen.out, region=REGION), bundle)


def carried_out(aws: Cloud, batch: Batch, act: Callable[[str], object], *, listener: Listener = SILENT) -> Summary:
    """Start a job and finish; `act` on the job while `finish` waits for it."""
    name = start(aws, batch)
    assert name is not None

    def pause(_: float) -> None:
        act(name)

    return finish(aws, batch, name, listener=listener, pause=pause)


def write_log(cloud: LocalCloud, job: str, line: str) -> None:
    logs, place = cloud.client("logs"), {"logGroupName": transform.LOGS, "logStreamName": f"{job}/data-log"}
    logs.create_log_group(logGroupName=transform.LOGS)
    logs.create_log_stream(**place)
    logs.put_log_events(**place, logEvents=[{"timestamp": int(time.time() * 1000), "message": line}])


def rows(aws: Cloud, out: str = OUT) -> list[Row]:
    destination, found = S3Destination(location=parse_location(out), region=REGION), list[Row]()
    for name in sorted(each for each in destination.names() if each.startswith("part-")):
        key = (parse_location(out) / name).key
        found += read_part(aws.client("s3").get_object(Bucket=PLACE.bucket, Key=key)["Body"].read())
    return found


def facts(row: Row) -> dict[str, Any]:
    """What must be equal in both ways of scoring: all but time, name and probabilities, which may differ a little."""
    document = row.document.model_dump(mode="json", exclude={"milliseconds", "image", "probabilities", "groups"})
    return document | {"sha256": row.file_sha256, "source": row.source}


def test_the_parts_are_those_of_pneumoscope_score(
    aws: Cloud, films: dict[str, bytes], batches: BatchTransform, tiny_bundle: Path
) -> None:
    """The same names, rows and tallies, so that each command goes on where the other ended."""
    summary = carried_out(aws, planned(aws, tiny_bundle), batches.run)
    assert sorted(batches.sent) == sorted(set(films) - {"1/013.jpeg"}), "each film once, but not the empty one"
    destination = S3Destination(location=parse_location(f"s3://{PLACE.bucket}/local"), region=REGION)
    source = S3Films(location=parse_location(SOURCE), region=REGION, limits=DEFAULT_LIMITS)
    expected = score_archives(
        [source], destination, tiny_bundle, Options(), ProcessCrew, Resources(cores=1), films_per_shard=6
    )
    there = S3Destination(location=parse_location(OUT), region=REGION).names()
    assert {name for name in destination.names() if name.startswith("part-")} <= there
    ours = {row.document.image: row for row in rows(aws)}
    others = {row.document.image: row for row in rows(aws, destination.address)}
    assert set(ours) == set(others) == set(films)
    for name, row in ours.items():
        assert facts(row) == facts(others[name]), name
        assert row.document.probabilities == pytest.approx(others[name].document.probabilities, abs=1e-5)
        expected_distance = others[name].distance
        assert (row.distance is None) == (expected_distance is None), name
        assert expected_distance is None or row.distance == pytest.approx(expected_distance, rel=1e-3)
    for name in ("films", "statuses", "reasons", "unread", "model", "contract", "sources"):
        assert getattr(summary, name) == getattr(expected, name)
    assert summary.films_per_second == pytest.approx((FILMS) / 10, rel=0.01), "of the job, by AWS's times"
    again = score_archives(
        [source],
        S3Destination(location=parse_location(OUT), region=REGION),
        tiny_bundle,
        Options(),
        ProcessCrew,
        Resources(cores=1),
        films_per_shard=6,
    )
    assert again.shards.there == again.shards.total == summary.shards.total


def test_a_failed_job_keeps_its_responses_and_the_next_one_sends_the_rest(
    aws: Cloud, films: dict[str, bytes], batches: BatchTransform, shared_cloud: LocalCloud, tiny_bundle: Path
) -> None:
    begun = planned(aws, tiny_bundle)
    write_log(shared_cloud, f"{begun.gatherer.run.name}-1", "0/016.jpeg: Unable to get response from the algorithm")
    heard = RecordingListener()
    failed = rf"transform job pneumoscope-score-\w+-1 failed: {FAILURE_REASON}; its log is in"
    with pytest.raises(CloudError, match=failed):
        carried_out(aws, begun, lambda name: batches.run(name, films=15), listener=heard)
    assert "0/016.jpeg: Unable to get response from the algorithm" in heard.lines, "AWS's reason refers to the log"
    first = rows(aws)
    assert 0 < len(first) < len(films), "whole parts only"
    batch = planned(aws, tiny_bundle)
    assert len(batch.to_send) == FILMS - 15
    summary = carried_out(aws, batch, batches.run)
    assert sorted(batches.sent) == sorted(set(films) - {"1/013.jpeg"}), "no film is sent twice"
    assert [job["name"][-2:] for job in status(aws) if job["kind"] == "transform job"] == ["-1", "-2"]
    assert summary.films == len(films)
    found = rows(aws)
    assert sorted(row.document.image for row in found) == sorted(films)


def test_gathering_again_after_an_interruption_doubles_nothing(
    aws: Cloud, films: dict[str, bytes], batches: BatchTransform, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, published = planned(aws, tiny_bundle), list[str]()
    name = start(aws, batch)
    assert name is not None
    batches.run(name)
    publish = S3Destination.publish

    def interrupted(destination: S3Destination, part: str, content: bytes) -> bool:
        if len(published) == 2:
            raise KeyboardInterrupt
        published.append(part)
        return publish(destination, part, content)

    with monkeypatch.context() as patch:
        patch.setattr(S3Destination, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finish(aws, batch, name)
    again = planned(aws, tiny_bundle)
    assert again.there == set(published)
    assert start(aws, again) is None, "every film is answered, so no job is needed"
    summary = finish(aws, again, None)
    assert (summary.shards.total, summary.shards.there) == (len(again.shards), 2)
    assert sorted(row.document.image for row in rows(aws)) == sorted(films)
    assert len(batches.sent) == FILMS
    last = planned(aws, tiny_bundle)
    assert (last.missing, last.to_send) == ([], [])
    assert finish(aws, last, start(aws, last)).films == len(films)
    assert len(rows(aws)) == len(films)


def test_a_refused_job_leaves_no_model_behind(
    aws: Cloud, films: dict[str, bytes], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert films
    batch, sagemaker = planned(aws, tiny_bundle), aws.client("sagemaker")

    def refuse(**_: Any) -> None:
        error = {"Code": "ResourceLimitExceeded", "Message": "The account-level service limit is 0 Instances"}
        raise ClientError({"Error": error}, "CreateTransformJob")

    with monkeypatch.context() as patch:
        patch.setattr(sagemaker, "create_transform_job", refuse)
        with pytest.raises(CloudError, match="service limit is 0 Instances"):
            start(aws, batch)
    assert sagemaker.list_models()["Models"] == []
    sagemaker.create_model(ModelName=f"{batch.gatherer.run.name}-1", ExecutionRoleArn="arn:aws:iam::1:role/a")
    assert start(aws, batch) == f"{batch.gatherer.run.name}-1"


def test_a_running_job_is_waited_for_and_not_started_again(
    aws: Cloud, films: dict[str, bytes], batches: BatchTransform, tiny_bundle: Path
) -> None:
    name = start(aws, planned(aws, tiny_bundle))
    batch = planned(aws, tiny_bundle)
    assert start(aws, batch) == name
    assert carried_out(aws, batch, batches.run).films == len(films)


def test_responses_are_found_by_either_form_of_their_keys(
    aws: Cloud, films: dict[str, bytes], shared_cloud: LocalCloud, service: Service, tiny_bundle: Path
) -> None:
    """AWS's description of TransformOutput does not settle which part of a film's key a response's key keeps."""
    whole = BatchTransform(shared_cloud, service, REGION, whole_keys=True)
    assert carried_out(aws, planned(aws, tiny_bundle), whole.run).films == len(films)


def test_new_films_cost_only_their_own_shard(
    aws: Cloud, films: dict[str, bytes], batches: BatchTransform, tiny_bundle: Path
) -> None:
    carried_out(aws, planned(aws, tiny_bundle), batches.run)
    aws.client("s3").put_object(Bucket=PLACE.bucket, Key="films/z.jpeg", Body=films["0/000.jpeg"])
    batch = planned(aws, tiny_bundle, remove_others=True)
    assert "z.jpeg" in [entry.name for entry in batch.to_send]
    assert len(batch.to_send) < FILMS
    assert carried_out(aws, batch, batches.run).films == len(films) + 1
    assert sorted(row.document.image for row in rows(aws)) == sorted([*films, "z.jpeg"])


def test_embeddings_are_gathered_if_asked_for(
    aws: Cloud, films: dict[str, bytes], shared_cloud: LocalCloud, tiny_bundle: Path
) -> None:
    chosen = settings(tiny_bundle, embedding=True)
    container = transform.model_arguments(chosen, "a", chosen.out, "arn")["PrimaryContainer"]
    with serving(tiny_bundle, environment=container["Environment"]) as service:
        batches = BatchTransform(shared_cloud, service, REGION)
        carried_out(aws, planned(aws, tiny_bundle, embedding=True), batches.run)
    found = {row.document.image: row.embedding for row in rows(aws)}
    assert {name for name, embedding in found.items() if embedding is None} == {"0/004.jpeg", "1/013.jpeg"}
    assert len(films) == len(found)


def test_the_coverage_is_the_jobs_and_the_names_are_those_of_pneumoscope_score(
    aws: Cloud, films: dict[str, bytes], batches: BatchTransform, shared_cloud: LocalCloud, tiny_bundle: Path
) -> None:
    """At coverage 0.99 every class fits every film; a container that does not know the variable answers at 0.9."""
    chosen = settings(tiny_bundle, coverage=0.99)
    container = transform.model_arguments(chosen, "a", chosen.out, "arn")["PrimaryContainer"]
    with serving(tiny_bundle, environment=container["Environment"]) as service:
        job = BatchTransform(shared_cloud, service, REGION)
        summary = carried_out(aws, planned(aws, tiny_bundle, coverage=0.99), job.run)
    judged = [row.document for row in rows(aws) if row.judged]
    assert len(judged) == len(films) - 2
    assert {(each.status, each.coverage) for each in judged} == {("abstained", 0.99)}
    assert summary.options["coverage"] == 0.99
    source = S3Films(location=parse_location(SOURCE), region=REGION, limits=DEFAULT_LIMITS)
    names = {shard.name for shard in shards_of(source, tiny_bundle, Options(coverage=0.99), films=6)}
    assert {
        name for name in S3Destination(location=chosen.out, region=REGION).names() if name.startswith("part-")
    } == names
    with pytest.raises(CloudError, match=r"is at coverage 0.9, not 0.99; is --image of this version\?"):
        carried_out(aws, planned(aws, tiny_bundle, coverage=0.99, out=f"{OUT}-old"), batches.run)
    assert rows(aws, f"{OUT}-old") == []


def test_the_parts_are_encrypted_with_the_key(
    aws: Cloud, films: dict[str, bytes], batches: BatchTransform, shared_cloud: LocalCloud, tiny_bundle: Path
) -> None:
    key = shared_cloud.client("kms").create_key()["KeyMetadata"]["KeyId"]
    given = ("score", SOURCE, "--out", OUT, "--model", tiny_bundle, "--image", IMAGE, "--role", "trainer")
    begun = run(*given, "--kms-key", key, "--no-wait")
    assert begun.code == 0, begun.err
    batches.run(next(iter(batches._jobs)))
    done = run(*given, "--kms-key", key, "--format", "json")
    assert json.loads(done.out)["films"] == len(films), done.err
    assert keys_of(aws, parse_location(OUT)) == {"part": key, "_shards.json": key, "_summary.json": key}


def test_the_job_is_what_batch_transform_documents(
    aws: Cloud, films: dict[str, bytes], shared_cloud: LocalCloud, tiny_bundle: Path
) -> None:
    assert max(map(len, films.values())) < 1_000_000
    key = shared_cloud.client("kms").create_key()["KeyMetadata"]["KeyId"]
    name = start(aws, planned(aws, tiny_bundle, films_at_once=64, instances=3, kms_key=key))
    assert name is not None
    sagemaker = shared_cloud.client("sagemaker")
    job = sagemaker.describe_transform_job(TransformJobName=name)
    assert job["BatchStrategy"] == "SingleRecord"
    assert job["TransformInput"]["SplitType"] == job["TransformInput"]["CompressionType"] == "None"
    assert job["TransformOutput"]["AssembleWith"] == "None"
    assert job["MaxPayloadInMB"] == 1
    assert job["MaxConcurrentTransforms"] == 64
    assert job["TransformResources"] == {
        "InstanceType": "ml.c6i.xlarge",
        "InstanceCount": 3,
        "VolumeKmsKeyId": key,
    }
    assert job["TransformOutput"]["KmsKeyId"] == key
    model = sagemaker.describe_model(ModelName=job["ModelName"])
    assert model["PrimaryContainer"]["Image"] == IMAGE
    assert model["PrimaryContainer"]["Environment"]["PNEUMOSCOPE_BATCH"] == "decisions"
    archive = parse_location(model["PrimaryContainer"]["ModelDataUrl"])
    assert aws.client("s3").head_object(Bucket=archive.bucket, Key=archive.key)["SSEKMSKeyId"].endswith(key)
    tags = sagemaker.list_tags(ResourceArn=model["ModelArn"])["Tags"]
    assert tags == [{"Key": "pneumoscope", "Value": name}]


@pytest.mark.parametrize(("largest", "payload", "at_once"), [(1, 1, 16), (6_000_001, 7, 14), (99_000_001, 100, 1)])
def test_large_films_are_sent_fewer_at_a_time(largest: int, payload: int, at_once: int, tiny_bundle: Path) -> None:
    films = transform.Films(source=parse_location(SOURCE), names=["a"], largest=largest)
    runs = transform.Run(key="k", responses=parse_location(OUT))
    chosen = settings(tiny_bundle, films_at_once=16)
    job = transform.job_arguments(chosen, "name", runs, films, parse_location(f"{OUT}/m"))
    assert (job["MaxPayloadInMB"], job["MaxConcurrentTransforms"]) == (payload, at_once)


def test_the_command_plans_starts_and_gathers(
    aws: Cloud, films: dict[str, bytes], batches: BatchTransform, tiny_bundle: Path
) -> None:
    del aws
    given = ("score", SOURCE, "--out", OUT, "--model", tiny_bundle, "--image", IMAGE, "--role", "trainer")
    dry = run(*given, "--dry-run")
    assert dry.code == 0, dry.err
    assert f"{len(films)} films; shards: 1, of which 0 are scored; films to send: {FILMS} (0." in dry.err
    assert not batches._jobs
    begun = run(*given, "--no-wait")
    assert begun.code == 0, begun.err
    (name,) = batches._jobs
    assert f"transform job {name} runs in {REGION}." in begun.err
    batches.run(name)
    done = run(*given, "--format", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["films"] == len(films)
    assert "transform job" in run("status").out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"role": "nobody"}, "there is no role nobody"),
        ({"source": "s3://nowhere/films"}, "bucket nowhere does not exist"),
        ({"out": "s3://nowhere/scores"}, "bucket nowhere does not exist"),
        ({"source": f"s3://{PLACE.bucket}/none"}, "no image file in s3://films-bucket/none"),
        ({"coverage": 0.31}, "coverage 0.31 is not in this model's table; accepted: 0.9 or 0.99"),
        ({"source": "s3://in-ireland/films"}, "in-ireland is in eu-west-1, but this command works in eu-central-1"),
    ],
)
def test_an_impossible_batch_is_not_started(
    changes: dict[str, Any],
    sentence: str,
    aws: Cloud,
    films: dict[str, bytes],
    batches: BatchTransform,
    shared_cloud: LocalCloud,
    tiny_bundle: Path,
) -> None:
    assert films
    ireland = shared_cloud.client("s3", region_name="eu-west-1")
    ireland.create_bucket(Bucket="in-ireland", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    with pytest.raises((CloudError, UsageError), match=sentence):
        start(aws, planned(aws, tiny_bundle, **changes))
    assert not batches._jobs


def test_denied_access_is_one_sentence(
    shared_cloud: LocalCloud, films: dict[str, bytes], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert films
    become_nobody(shared_cloud, monkeypatch)
    scoring._cloud.cache_clear()
    with shared_cloud.guarded(), pytest.raises(CloudError, match=r"AWS denies access .*allow \w+ for") as failure:
        planned(Cloud(region=REGION), tiny_bundle)
    assert "\n" not in str(failure.value)


def test_the_documented_user_and_role_can_do_it(
    films: dict[str, bytes],
    batches: BatchTransform,
    shared_cloud: LocalCloud,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The role's part, reading films and the model and writing responses, is tried call by call."""
    become_documented_user(shared_cloud, monkeypatch)
    scoring._cloud.cache_clear()
    user = Cloud(region=REGION)
    with shared_cloud.guarded():
        name = start(user, planned(user, tiny_bundle))
    assert name is not None
    batches.run(name)
    with shared_cloud.guarded():
        batch = planned(user, tiny_bundle)
        assert finish(user, batch, start(user, batch)).films == len(films)
        assert {each["name"] for each in status(user)} == {name}
    become_nobody(shared_cloud, monkeypatch, "role")
    policy = (REPOSITORY / "deploy" / "aws" / "sagemaker-role.json").read_text().replace("BUCKET", PLACE.bucket)
    shared_cloud.client("iam").put_user_policy(UserName="role", PolicyName="role", PolicyDocument=policy)
    role = Cloud(region=REGION).client("s3")
    job = batches.job(name)
    archive = f"{OUT}/_models/{load_contract(tiny_bundle).files['model.onnx'][:12]}/model.tar.gz"
    response = parse_location(job.transform_output["S3OutputPath"]) / "0/000.jpeg.out"
    with shared_cloud.guarded():
        for read in (archive, f"{SOURCE}/0/000.jpeg", job.transform_input["DataSource"]["S3DataSource"]["S3Uri"]):
            assert role.get_object(Bucket=PLACE.bucket, Key=parse_location(read).key)["Body"].read()
        role.put_object(Bucket=response.bucket, Key=response.key, Body=b"x")
        with pytest.raises(CloudError, match="denies"), translate_errors():
            role.put_object(Bucket=PLACE.bucket, Key="films/0/000.jpeg", Body=b"x")


def test_results_inside_the_films_are_refused(tiny_bundle: Path) -> None:
    for out in (SOURCE, f"{SOURCE}/scores"):
        with pytest.raises(ValidationError, match="inside the folder of the films"):
            settings(tiny_bundle, out=out)
    assert settings(tiny_bundle, out=f"{SOURCE}-scores").out.key == "films-scores"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"words", "not one of `pneumoscope serve --batch`"),
        (b"{}", "not one of `pneumoscope serve --batch`"),
        (b'{"status": "answered", "batch": {}}', "not one of `pneumoscope serve --batch`"),
    ],
)
def test_a_response_of_another_service_is_refused(content: bytes, message: str, tiny_bundle: Path) -> None:
    with pytest.raises(CloudError, match=message):
        parse_response(content, "a.jpeg", SOURCE, load_contract(tiny_bundle))


def test_a_response_of_another_model_is_refused(service: Service, described_bundle: Path, tiny_bundle: Path) -> None:
    response = service.post("/invocations", drawn_films()[0], "application/x-image").body
    assert parse_response(response, "a.jpeg", SOURCE, load_contract(tiny_bundle)).file_sha256
    contract = load_contract(described_bundle)
    other = contract.model_copy(update={"files": contract.files | {"model.onnx": "0" * 64}})
    with pytest.raises(CloudError, match="of another model than --model"):
        parse_response(response, "a.jpeg", SOURCE, other)
