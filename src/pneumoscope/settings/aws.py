"""Settings of `pneumoscope aws …`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pneumoscope.documents import Document
from pneumoscope.settings.aws_names import EndpointName, InstanceType, Location, Place, parse_location
from pneumoscope.settings.option import Images, Precision, Quiet, Spelling

Variant: TypeAlias = Literal["realtime", "serverless", "async"]
Serving: TypeAlias = Literal["own", "ray"]


def _no_alias(given: str) -> str:
    if given.rpartition(":")[2].startswith("alias/"):
        raise ValueError(f"{given!r} is an alias; give the key's id or ARN, which AWS takes everywhere")
    return given


def _parse_changes(given: Any) -> Any:
    """`["epochs=4"]`, as on the command line, → `{"epochs": "4"}`; anything else is left to validation."""
    if not isinstance(given, list | tuple):
        return given
    changes = {}
    for text in given:
        name, sign, value = str(text).partition("=")
        if not name or not sign:
            raise ValueError(f"{text!r} is not NAME=VALUE, such as epochs=4")
        changes[name.strip().replace("-", "_")] = value.strip()
    return changes


def _source(given: Any) -> Any:
    """A bundle on this machine, or an archive in S3."""
    if not isinstance(given, str):
        return given
    return parse_location(given) if given.startswith("s3://") else Path(given)


_S3 = Spelling(metavar="S3://…", kind=str)
Region = Annotated[str | None, Field(description="AWS region; by default your environment's or profile's.")]
Key = Annotated[
    Annotated[str, AfterValidator(_no_alias)] | None,
    Field(description="Id or ARN of a KMS key to encrypt with; by default S3's own keys."),
]
Source = Annotated[
    Path | Location,
    BeforeValidator(_source),
    Spelling(argument=True, kind=str),
    Field(description="A bundle, or a training job's s3://…/model.tar.gz."),
]
Endpoint = Annotated[EndpointName, Spelling(argument=True), Field(description="The endpoint's name.")]
Form = Annotated[Literal["table", "json"], Spelling(names=("--format",)), Field(description="How to print.")]


class Upload(Document):
    """Of `aws upload`."""

    dataset: Annotated[Path, Spelling(argument=True, path="existing folder")] = Field(
        description="A data set made by `data prepare`."
    )
    place: Annotated[Place, Spelling(argument=True, metavar="S3://BUCKET/PREFIX", kind=str)] = Field(
        description="Where to put it."
    )
    region: Region = None
    kms_key: Key = None
    allow_public: bool = Field(default=False, description="Into a bucket that the public can read, too.")
    quiet: Quiet = False


class Train(Document):
    """Of `aws train`."""

    unprepared: bool = Field(
        default=False, description="--data has folders of films and no manifest; the job prepares it."
    )
    instance_type: InstanceType = Field(default="ml.g5.xlarge", description="Type of instance.")
    instances: int = Field(default=1, ge=1, le=64, description="Hosts to train on.")
    volume_gb: int = Field(default=50, ge=10, le=16_000, description="Disk of each host.")
    max_hours: float = Field(default=12.0, gt=0, le=28 * 24, description="Stopped after so long.")
    spot: bool = Field(default=False, description="Spare capacity: cheaper, resumed if interrupted.")
    fast_file: bool = Field(default=False, description="Stream the films instead of copying first.")
    kms_key: Key = None
    data: Annotated[Place, _S3] = Field(description="A data set, as `aws upload` puts it there.")
    out: Annotated[Place, _S3] = Field(description="Where model, reports and checkpoints go.")
    role: Annotated[str, Spelling(variable="PNEUMOSCOPE_ROLE")] = Field(
        min_length=1, description="Name or ARN of the role that SageMaker takes on (docs/how-to/aws.md)."
    )
    test: Annotated[Place | None, _S3] = Field(
        default=None, description="A data set whose test split is evaluated at the end."
    )
    recipe: str = Field(default="quick", description="A shipped recipe's name (see `train --help`).")
    changes: Annotated[dict[str, str], BeforeValidator(_parse_changes), Spelling(names=("--set",), kind=list[str])] = (
        Field(default={}, description="Change one value of the recipe, e.g. epochs=4. Repeatable.")
    )
    export_precision: Precision | None = Field(
        default=None, description="Of the bundle, fp32 or int8; by default fp32."
    )
    name: EndpointName = Field(
        default_factory=lambda given: f"{given['recipe']}-{datetime.now(UTC):%Y-%m-%d-%H-%M-%S}",
        description="The job's name; by default the recipe's and the time.",
    )
    image: str | None = Field(
        default=None, description="Our own training image in ECR; by default AWS's PyTorch image and this code."
    )
    wait: bool = Field(default=False, description="Follow the job and its log until it has ended.")
    region: Region = None
    quiet: Quiet = False


class PutModel(Document):
    """Of `aws put-model`."""

    source: Source
    folder: Annotated[Place, Spelling(argument=True, metavar="S3://BUCKET/FOLDER", kind=str)] = Field(
        description="A folder without a model."
    )
    serving: Serving = Field(default="own", description="Packed for our image, or for AWS's Ray Serve.")
    region: Region = None
    kms_key: Key = None
    quiet: Quiet = False


class Deploy(Document):
    """Of `aws deploy`. The endpoint's stack has its name after `pneumoscope-`."""

    role: Annotated[str | None, Spelling(variable="PNEUMOSCOPE_ENDPOINT_ROLE")] = Field(
        default=None, description="Role that it takes on; by default the stack makes one."
    )
    variant: Variant = Field(default="realtime", description="How it answers.")
    instance_type: InstanceType = Field(default="ml.c6i.large", description="Type of instance.")
    instances: int = Field(default=1, ge=1, le=100, description="Instances to begin with.")
    most_instances: int = Field(default=1, ge=1, le=100, description="Scale by load up to so many, unless serverless.")
    calls_per_minute: int = Field(
        default=600, ge=1, description="Of one instance, before another is added, if real-time."
    )
    memory_mb: Annotated[Literal[1024, 2048, 3072, 4096, 5120, 6144], Spelling(kind=int)] = Field(
        default=3072, description="Of a serverless endpoint, 1024 to 6144."
    )
    concurrency: int = Field(default=4, ge=1, le=200, description="Calls at a time, if serverless or async.")
    capture: Annotated[Place | None, _S3] = Field(
        default=None, description="Keep every film and answer there. Off unless given."
    )
    kms_key: Key = None
    source: Source
    to: Annotated[Place, _S3] = Field(description="Where models go; a folder NAME is made there.")
    name: EndpointName | None = Field(default=None, description="The endpoint's name; by default the model's.")
    serving: Serving = Field(default="own", description="Our image (give --image), or AWS's for Ray Serve.")
    image: str | None = Field(default=None, description="Our service's image in ECR (docs/how-to/aws.md).")
    wait: bool = Field(default=True, description="Wait until it answers.")
    region: Region = None
    quiet: Quiet = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.capture is not None and self.variant != "realtime":
            raise ValueError(f"an endpoint of variant {self.variant} captures nothing; leave out --capture")
        if self.capture is not None and not self.capture.key:
            raise ValueError("captures need a folder of their own, such as s3://BUCKET/captures")
        if self.variant == "serverless" and max(self.instances, self.most_instances) > 1:
            raise ValueError("a serverless endpoint has no instances; leave out --instances and --most-instances")
        if not self.image and self.serving != "ray":
            raise ValueError(
                "--image is missing; build ours and push it to ECR (docs/how-to/aws.md), or pass --serving ray"
            )
        return self


class Invoke(Document):
    """Of `aws invoke`."""

    endpoint: Endpoint
    images: Images
    variant: Variant | None = Field(default=None, description="How it is asked; by default AWS is asked that.")
    bundle: Annotated[Path | None, Spelling(path="existing folder")] = Field(
        default=None, description="Its bundle, to shrink films that are too large for it."
    )
    form: Form = "table"
    region: Region = None
    quiet: Quiet = False


class Status(Document):
    """Of `aws status`."""

    form: Form = "table"
    region: Region = None


class Teardown(Document):
    """Of `aws teardown`."""

    name: Endpoint
    keep_model: bool = Field(
        default=False, description="Leave the model's files in S3, for a stack or another endpoint."
    )
    yes: bool = Field(default=False, description="Do not ask.")
    region: Region = None
