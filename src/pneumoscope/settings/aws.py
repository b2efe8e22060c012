"""Settings of `pneumoscope aws …`."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from pneumoscope.documents import Document
from pneumoscope.settings.names import EndpointName
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


_S3 = Spelling(metavar="S3://…")
Region = Annotated[str | None, Field(description="AWS region; by default your environment's or profile's.")]
Key = Annotated[
    Annotated[str, AfterValidator(_no_alias)] | None,
    Field(description="Id or ARN of a KMS key to encrypt with; by default S3's own keys."),
]
Source = Annotated[
    str, Spelling(argument=True), Field(description="A bundle, or a training job's s3://…/model.tar.gz.")
]
Endpoint = Annotated[EndpointName, Spelling(argument=True), Field(description="The endpoint's name.")]
Form = Annotated[Literal["table", "json"], Spelling(names=("--format",)), Field(description="How to print.")]


class Upload(Document):
    """Of `aws upload`."""

    dataset: Annotated[Path, Spelling(argument=True, path="existing folder")] = Field(
        description="A data set made by `data prepare`."
    )
    place: Annotated[str, Spelling(argument=True, metavar="S3://BUCKET/PREFIX")] = Field(description="Where to put it.")
    region: Region = None
    kms_key: Key = None
    allow_public: bool = Field(default=False, description="Into a bucket that the public can read, too.")
    quiet: Quiet = False


class JobOptions(Document):
    """What the command line and the request of a training job share."""

    unprepared: bool = Field(
        default=False, description="--data has folders of films and no manifest; the job prepares it."
    )
    instance_type: str = Field(default="ml.g5.xlarge", description="Type of instance.")
    instances: int = Field(default=1, ge=1, le=64, description="Hosts to train on.")
    volume_gb: int = Field(default=50, ge=10, le=16_000, description="Disk of each host.")
    max_hours: float = Field(default=12.0, gt=0, le=28 * 24, description="Stopped after so long.")
    spot: bool = Field(default=False, description="Spare capacity: cheaper, resumed if interrupted.")
    fast_file: bool = Field(default=False, description="Stream the films instead of copying first.")
    kms_key: Key = None


class Train(JobOptions):
    """Of `aws train`."""

    data: Annotated[str, _S3] = Field(description="A data set, as `aws upload` puts it there.")
    out: Annotated[str, _S3] = Field(description="Where model, reports and checkpoints go.")
    role: Annotated[str, Spelling(variable="PNEUMOSCOPE_ROLE")] = Field(
        min_length=1, description="Name or ARN of the role that SageMaker takes on (docs/aws.md)."
    )
    test: Annotated[str | None, _S3] = Field(
        default=None, description="A data set whose test split is evaluated at the end."
    )
    recipe: str = Field(default="quick", description="A shipped recipe's name (see `train --help`).")
    changes: Annotated[dict[str, str], BeforeValidator(_parse_changes), Spelling(names=("--set",), kind=list[str])] = (
        Field(default={}, description="Change one value of the recipe, e.g. epochs=4. Repeatable.")
    )
    export_precision: Precision | None = Field(
        default=None, description="Of the bundle, fp32 or int8; by default fp32."
    )
    name: str | None = Field(default=None, description="The job's name; by default the recipe's and the time.")
    image: str | None = Field(
        default=None, description="Our own training image in ECR; by default AWS's PyTorch image and this code."
    )
    wait: bool = Field(default=False, description="Follow the job and its log until it has ended.")
    region: Region = None
    quiet: Quiet = False


class PutModel(Document):
    """Of `aws put-model`."""

    source: Source
    folder: Annotated[str, Spelling(argument=True, metavar="S3://BUCKET/FOLDER")] = Field(
        description="A folder without a model."
    )
    serving: Serving = Field(default="own", description="Packed for our image, or for AWS's Ray Serve.")
    region: Region = None
    kms_key: Key = None
    quiet: Quiet = False


class EndpointOptions(Document):
    """What the command line and the request of an endpoint share."""

    role: Annotated[str | None, Spelling(variable="PNEUMOSCOPE_ENDPOINT_ROLE")] = Field(
        default=None, description="Role that it takes on; by default the stack makes one."
    )
    variant: Variant = Field(default="realtime", description="How it answers.")
    instance_type: str = Field(default="ml.c6i.large", description="Type of instance.")
    instances: int = Field(default=1, ge=1, le=100, description="Instances to begin with.")
    most_instances: int = Field(default=1, ge=1, le=100, description="Scale by load up to so many, unless serverless.")
    calls_per_minute: int = Field(
        default=600, ge=1, description="Of one instance, before another is added, if real-time."
    )
    memory_mb: Annotated[Literal[1024, 2048, 3072, 4096, 5120, 6144], Spelling(kind=int)] = Field(
        default=3072, description="Of a serverless endpoint, 1024 to 6144."
    )
    concurrency: int = Field(default=4, ge=1, le=200, description="Calls at a time, if serverless or async.")
    capture: Annotated[str | None, _S3] = Field(
        default=None, description="Keep every film and answer there. Off unless given."
    )
    kms_key: Key = None


class Deploy(EndpointOptions):
    """Of `aws deploy`."""

    source: Source
    to: Annotated[str, _S3] = Field(description="Where models go; a folder NAME is made there.")
    name: str | None = Field(default=None, description="The endpoint's name; by default the model's.")
    serving: Serving = Field(default="own", description="Our image (give --image), or AWS's for Ray Serve.")
    image: str | None = Field(default=None, description="Our service's image in ECR (docs/aws.md).")
    wait: bool = Field(default=True, description="Wait until it answers.")
    region: Region = None
    quiet: Quiet = False


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
