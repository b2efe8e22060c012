"""Settings of `pneumoscope aws …`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from pneumoscope.documents import Document
from pneumoscope.settings.aws_names import EndpointName, InstanceType, Key, Location, S3Location, parse_location
from pneumoscope.settings.option import Coverage, Images, Precision, Quiet, Spelling, Whole

Variant: TypeAlias = Literal["realtime", "serverless", "async"]
Serving: TypeAlias = Literal["own", "ray"]


def _parse_changes(options: Any) -> Any:
    """`["epochs=4"]`, as on the command line, → `{"epochs": "4"}`; anything else is left to validation."""
    if not isinstance(options, list | tuple):
        return options
    changes = {}
    for option in options:
        name, sign, value = str(option).partition("=")
        if not name or not sign:
            raise ValueError(f"{option!r} is not NAME=VALUE, such as epochs=4")
        changes[name.strip().replace("-", "_")] = value.strip()
    return changes


def _parse_source(value: Any) -> Any:
    """`s3://…` → a location in S3, any other text → a path; anything else is left to validation."""
    if not isinstance(value, str):
        return value
    return parse_location(value) if value.startswith("s3://") else Path(value)


_S3 = Spelling(metavar="S3://…", kind=str)
Region = Annotated[str | None, Field(description="AWS region; by default that of your environment or profile.")]
Source = Annotated[
    Path | Location,
    BeforeValidator(_parse_source),
    Spelling(argument=True, kind=str),
    Field(description="Folder of a bundle, or the s3://…/model.tar.gz of a training job."),
]
Endpoint = Annotated[EndpointName, Spelling(argument=True), Field(description="Name of the endpoint.")]
Form = Annotated[Literal["table", "json"], Spelling(names=("--format",)), Field(description="Output format.")]


class Upload(Document):
    """Settings of `aws upload`."""

    dataset: Annotated[Path, Spelling(argument=True, path="existing folder")] = Field(
        description="A data set made by `data prepare`."
    )
    place: Annotated[S3Location, Spelling(argument=True, metavar="S3://BUCKET/PREFIX", kind=str)] = Field(
        description="Folder in S3 to put it into."
    )
    region: Region = None
    kms_key: Key = None
    allow_public: bool = Field(default=False, description="Upload even into a bucket that the public can read.")
    quiet: Quiet = False


class Train(Document):
    """Settings of `aws train`."""

    unprepared: bool = Field(
        default=False, description="--data holds folders of films, not a data set: the job prepares them first."
    )
    instance_type: InstanceType = Field(default="ml.g5.xlarge", description="Instance type to train on.")
    instances: int = Field(default=1, ge=1, le=64, description="Number of instances to train on.")
    volume_gb: int = Field(default=50, ge=10, le=16_000, description="Disk of each instance, in GB.")
    max_hours: float = Field(default=12.0, gt=0, le=28 * 24, description="Stop the job after this many hours.")
    spot: bool = Field(default=False, description="Train on spare capacity: cheaper; an interrupted job is resumed.")
    fast_file: bool = Field(
        default=False, description="Stream the films from S3 instead of copying them to the disk first."
    )
    kms_key: Key = None
    data: Annotated[S3Location, _S3] = Field(description="Folder in S3 with a data set that `aws upload` put there.")
    out: Annotated[S3Location, _S3] = Field(description="Folder in S3 for the model, reports and checkpoints.")
    role: Annotated[str, Spelling(variable="PNEUMOSCOPE_ROLE")] = Field(
        min_length=1, description="Name or ARN of the IAM role of the job (docs/how-to/aws.md)."
    )
    test: Annotated[S3Location | None, _S3] = Field(
        default=None, description="Folder in S3 with a data set whose test split is evaluated at the end."
    )
    recipe: str = Field(default="quick", description="Name of a shipped recipe (see `train --help`).")
    changes: Annotated[dict[str, str], BeforeValidator(_parse_changes), Spelling(names=("--set",), kind=list[str])] = (
        Field(default={}, description="Set one value instead of the recipe's, e.g. epochs=4. Repeatable.")
    )
    export_precision: Precision | None = Field(default=None, description="Precision of the bundle; by default fp32.")
    # After `recipe`: pydantic gives a default factory only the fields before it.
    name: EndpointName = Field(
        default_factory=lambda fields: f"{fields['recipe']}-{datetime.now(UTC):%Y-%m-%d-%H-%M-%S}",
        description="Name of the job; by default the recipe's name and the time.",
    )
    image: str | None = Field(
        default=None,
        description="Training image of Pneumoscope in ECR; by default AWS's PyTorch image, with this code added.",
    )
    wait: bool = Field(default=False, description="Follow the job and its log until it ends.")
    region: Region = None
    quiet: Quiet = False


class PutModel(Document):
    """Settings of `aws put-model`."""

    source: Source
    folder: Annotated[S3Location, Spelling(argument=True, metavar="S3://BUCKET/FOLDER", kind=str)] = Field(
        description="Folder in S3 that holds no model yet."
    )
    serving: Serving = Field(
        default="own",
        description="Container image to pack the model for: own (Pneumoscope's), or ray (AWS's for Ray Serve).",
    )
    region: Region = None
    kms_key: Key = None
    quiet: Quiet = False


class Deploy(Document):
    """Settings of `aws deploy`. The endpoint's stack is named `pneumoscope-` and the endpoint's name."""

    role: Annotated[str | None, Spelling(variable="PNEUMOSCOPE_ENDPOINT_ROLE")] = Field(
        default=None, description="Name or ARN of the endpoint's IAM role; by default the stack makes one."
    )
    variant: Variant = Field(
        default="realtime",
        description="Kind of endpoint: always on (realtime), started on demand (serverless), or with films and "
        "responses passed through S3 (async).",
    )
    instance_type: InstanceType = Field(default="ml.c6i.large", description="Instance type.")
    instances: int = Field(
        default=1, ge=1, le=100, description="Number of instances; with --most-instances, the smallest number."
    )
    most_instances: int = Field(
        default=1, ge=1, le=100, description="Largest number of instances to scale up to by load; not for serverless."
    )
    calls_per_minute: int = Field(
        default=600, ge=1, description="realtime: calls per minute and instance above which another instance is added."
    )
    memory_mb: Annotated[Literal[1024, 2048, 3072, 4096, 5120, 6144], Whole] = Field(
        default=3072, description="serverless: memory in MB, 1024 to 6144 in steps of 1024."
    )
    concurrency: int = Field(
        default=4, ge=1, le=200, description="serverless and async: number of calls that run at a time."
    )
    capture: Annotated[S3Location | None, _S3] = Field(
        default=None,
        description="realtime: folder in S3 in which every film and response is kept; by default, nothing is kept.",
    )
    kms_key: Key = None
    source: Source
    to: Annotated[S3Location, _S3] = Field(
        description="Folder in S3 for models; the model goes into a folder named after the endpoint."
    )
    name: EndpointName | None = Field(
        default=None, description="Name of the endpoint; by default the bundle's; required for a model in S3."
    )
    serving: Serving = Field(
        default="own",
        description="Container image: own (Pneumoscope's, given by --image), or ray (AWS's for Ray Serve).",
    )
    image: str | None = Field(default=None, description="Pneumoscope's service image in ECR (docs/how-to/aws.md).")
    wait: bool = Field(default=True, description="Wait until the endpoint is in service.")
    region: Region = None
    quiet: Quiet = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.capture is not None and self.variant != "realtime":
            raise ValueError(f"an endpoint of variant {self.variant} captures nothing; leave out --capture")
        if self.capture is not None and not self.capture.key:
            raise ValueError("captures need a folder in the bucket, such as s3://BUCKET/captures")
        if self.variant == "serverless" and max(self.instances, self.most_instances) > 1:
            raise ValueError("a serverless endpoint has no instances; leave out --instances and --most-instances")
        if not self.image and self.serving != "ray":
            raise ValueError(
                "--image is missing; build the service image and push it to ECR (docs/how-to/aws.md), or pass "
                "--serving ray"
            )
        return self


class Score(Document):
    """Settings of `aws score`."""

    source: Annotated[S3Location, Spelling(argument=True, metavar="S3://BUCKET/PREFIX", kind=str)] = Field(
        description="Folder in S3 with the films."
    )
    out: Annotated[S3Location, _S3] = Field(description="Folder in S3 for the Parquet parts and _summary.json.")
    model: Annotated[Path | Location, BeforeValidator(_parse_source), Spelling(kind=str)] = Field(
        description="Folder of a bundle, or the s3://…/model.tar.gz of a training job."
    )
    image: str = Field(min_length=1, description="Pneumoscope's service image in ECR (docs/how-to/aws.md).")
    role: Annotated[str, Spelling(variable="PNEUMOSCOPE_ROLE")] = Field(
        min_length=1, description="Name or ARN of the IAM role of the job (docs/how-to/aws.md)."
    )
    instance_type: InstanceType = Field(default="ml.c6i.xlarge", description="Instance type to score on.")
    instances: int = Field(default=1, ge=1, le=100, description="Number of instances to score on.")
    films_at_once: int = Field(
        default=8, ge=1, le=64, description="Films sent to each instance at a time; fewer if films are large."
    )
    shard_films: int = Field(
        default=2000,
        ge=2,
        le=100_000,
        description="Approximate number of films per shard and part. Parts made with another number are not reused.",
    )
    embedding: bool = Field(default=False, description="Also store each film's embedding, 4 bytes per dimension.")
    coverage: Coverage = None
    remove_others: bool = Field(
        default=False,
        description="Once all parts are there, delete from --out the parts of other films, models or options.",
    )
    dry_run: bool = Field(default=False, description="List and count the films, print the plan, and start nothing.")
    wait: bool = Field(
        default=True, description="Wait for the job and gather its responses; else the same command does that later."
    )
    form: Form = "table"
    region: Region = None
    kms_key: Key = None
    quiet: Quiet = False

    @model_validator(mode="after")
    def _require_separate_folders(self) -> Self:
        if self.out.bucket == self.source.bucket and f"{self.out.key}/".startswith(f"{self.source.key}/".lstrip("/")):
            raise ValueError("--out is inside the folder of the films, so that results would be taken for films")
        return self


class Invoke(Document):
    """Settings of `aws invoke`."""

    endpoint: Endpoint
    images: Images
    variant: Variant | None = Field(default=None, description="Kind of the endpoint; by default AWS is queried for it.")
    bundle: Annotated[Path | None, Spelling(path="existing folder")] = Field(
        default=None, description="Bundle of the endpoint, for shrinking films that are too large to send."
    )
    form: Form = "table"
    region: Region = None
    quiet: Quiet = False


class Status(Document):
    """Settings of `aws status`."""

    form: Form = "table"
    region: Region = None


class Teardown(Document):
    """Settings of `aws teardown`."""

    name: Endpoint
    keep_model: bool = Field(default=False, description="Keep the model's files in S3, for another stack or endpoint.")
    yes: bool = Field(default=False, description="Do not ask for confirmation.")
    region: Region = None
