"""Settings of `score`."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pneumoscope.documents import Document
from pneumoscope.errors import UsageError
from pneumoscope.settings.aws_names import S3, Key, parse_location
from pneumoscope.settings.option import Bundle, Codec, Coverage, FixOrientation, MaxPixels, Point, Quiet, Spelling


def _checked_address(value: str) -> str:
    """The value unchanged, if it is a path or a valid S3 address."""
    if value.startswith(S3):
        try:
            parse_location(value)
        except UsageError as failure:
            raise ValueError(str(failure).rstrip(".")) from None
    elif not value:
        raise ValueError("an empty path")
    return value


Address = Annotated[str, AfterValidator(_checked_address)]


class Score(Document):
    """Settings of `score`."""

    sources: Annotated[tuple[Address, ...], Spelling(argument=True, metavar="SOURCE", kind=list[str])] = Field(
        description="Folders, ZIP or tar archives, data sets made by `data prepare`, lists of paths (.txt, one per "
        "line), or s3://BUCKET/PREFIX."
    )
    out: Annotated[Address, Spelling(metavar="PLACE", kind=str)] = Field(
        description="Folder or s3://BUCKET/PREFIX for the Parquet parts and _summary.json."
    )
    bundle: Bundle = None
    ray: str | None = Field(
        default=None,
        min_length=1,
        description="Run on a Ray cluster instead of this machine: auto (the cluster that this machine belongs to), "
        "HOST:PORT, or ray://HOST:PORT.",
    )
    cores: int | None = Field(
        default=None, ge=1, description="Cores to use; by default all of this machine, or of the cluster."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Cores per worker process; by default 1, or more if there are fewer shards than cores.",
    )
    shard_films: int = Field(
        default=2000,
        ge=2,
        le=100_000,
        description="Approximate number of films per shard and part. Parts made with another number are not reused.",
    )
    embedding: bool = Field(default=False, description="Also store each film's embedding, 4 bytes per dimension.")
    level: Literal["class", "group"] = Field(
        default="class",
        description="Answer with a class, or with the group that contains it, such as pneumonia.",
    )
    coverage: Coverage = None
    operating_point: Point = None
    fix_orientation: FixOrientation = False
    max_pixels: MaxPixels = 100_000_000
    name_encoding: Codec | None = Field(
        default=None, description="Text codec of file names in an archive, if these are not UTF-8, e.g. gbk."
    )
    remove_others: bool = Field(
        default=False,
        description="Once all parts are there, delete from --out the parts of other films, models or options.",
    )
    region: str | None = Field(
        default=None, description="AWS region of the buckets; by default that of your environment or profile."
    )
    kms_key: Annotated[
        Key, Field(description="Id or ARN of a KMS key to encrypt results in S3 with; by default, the bucket decides.")
    ] = None
    form: Annotated[Literal["table", "json"], Spelling(names=("--format",))] = Field(
        default="table", description="Output format of the summary."
    )
    quiet: Quiet = False

    @model_validator(mode="after")
    def _key_for_s3(self) -> Self:
        if self.kms_key is not None and not self.out.startswith(S3):
            raise ValueError("--kms-key encrypts results in S3, but --out is not in S3; leave out --kms-key")
        return self
