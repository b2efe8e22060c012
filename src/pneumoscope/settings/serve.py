"""Settings of `serve`, and of the service that it starts."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from pneumoscope.documents import Document
from pneumoscope.settings.aws_names import EndpointName
from pneumoscope.settings.option import Bundle, Coverage, FixOrientation, Point, Provider, Spelling

TOKEN_VARIABLE = "PNEUMOSCOPE_TOKEN"  # noqa: S105 (the variable's name)
BATCH_VARIABLE, COVERAGE_VARIABLE = "PNEUMOSCOPE_BATCH", "PNEUMOSCOPE_COVERAGE"
MAX_BYTES_VARIABLE, MAX_PIXELS_VARIABLE = "PNEUMOSCOPE_MAX_BYTES", "PNEUMOSCOPE_MAX_PIXELS"
Batch: TypeAlias = Literal["decisions", "embeddings"]
#: Batch Transform's limit in megabytes (CreateTransformJob), for MaxPayloadInMB, which is the largest size of one film,
#: and for its product with MaxConcurrentTransforms, the number of films sent at a time. AWS's pages do not say which
#: megabyte they mean, so we keep to the smaller one.
BATCH_MEGABYTES, MEGABYTE = 100, 1_000_000
SHORTEST_TOKEN = 16  # characters
MOST_FILMS = 32  # image files in one request
#: Content types of a request whose body is one image file.
RAW = ("image/*", "application/dicom", "application/octet-stream", "application/x-image")


def film_type(header: str | None) -> tuple[str, bool]:
    """A Content-Type without its parameters, and whether it is one of `RAW`.

    >>> film_type("image/png; q=1"), film_type(None)
    (('image/png', True), ('', False))
    """
    kind = (header or "").partition(";")[0].strip().lower()
    return kind, kind in RAW or (kind.startswith("image/") and len(kind) > len("image/"))


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    return host in ("localhost", "::1") or host.startswith("127.")


class ServeOptions(Document):
    """The settings that `serve` and the service share. Sizes are in bytes, times in seconds."""

    host: Annotated[str, Spelling(variable="PNEUMOSCOPE_HOST")] = Field(
        default="127.0.0.1", description="Address to listen on; 0.0.0.0 listens on all interfaces."
    )
    port: Annotated[int, Spelling(variable="PNEUMOSCOPE_PORT")] = Field(
        default=8080, ge=0, le=65535, description="TCP port to listen on; 0 picks a free one."
    )
    workers: int = Field(
        default=1, ge=1, le=64, description="Worker processes; each loads the model and gets its share of the cores."
    )
    queue: int = Field(
        default=64,
        ge=MOST_FILMS,
        description="Films that can be waiting or in work; any more are answered with status 503.",
    )
    max_bytes: Annotated[int, Spelling(variable=MAX_BYTES_VARIABLE)] = Field(
        default=50_000_000, ge=1000, description="Largest request body, in bytes."
    )
    max_pixels: Annotated[int, Spelling(variable=MAX_PIXELS_VARIABLE)] = Field(
        default=50_000_000, ge=1000, description="Reject images with more than this many pixels."
    )
    read_seconds: Annotated[float, Spelling(variable="PNEUMOSCOPE_READ_SECONDS")] = Field(
        default=60, gt=0, description="Time for a request's body to arrive, in seconds."
    )
    drain_seconds: int = Field(
        default=25, ge=1, description="When stopped: time to finish the requests under way, in seconds."
    )
    cors_origins: Annotated[tuple[str, ...], Spelling(names=("--cors-origin",))] = Field(
        default=(), description="Web origin whose pages may send requests, such as https://pacs.example. Repeatable."
    )
    as_endpoint: EndpointName | None = Field(
        default=None,
        description="Also answer as the SageMaker endpoint of this name, for AWS clients with "
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME.",
    )
    keep_log: Annotated[Path | None, Spelling(path="file")] = Field(
        default=None, description="Append every decision to this file, as JSON lines."
    )
    batch: Annotated[Batch | None, Spelling(variable=BATCH_VARIABLE)] = Field(
        default=None,
        description="Answer /invocations as a batch transform job needs it: a file that cannot be read gets 200 and a "
        "rejection, not 422. Responses also have the file's SHA-256 and, with embeddings, the film's embedding.",
    )
    coverage: Annotated[Coverage, Spelling(variable=COVERAGE_VARIABLE)] = None
    operating_point: Point = None
    fix_orientation: FixOrientation = False
    provider: Provider = "cpu"

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            # Browsers send origins without a path, so one with a path would never match.
            if re.fullmatch(r"\*|https?://[^/\s]+", each) is None:
                raise ValueError(
                    f"{each!r} is not a web origin; write *, or one without a path, such as https://pacs.example"
                )
        return value


class Serve(ServeOptions):
    """Settings of `serve`."""

    bundle: Bundle = None
    token_file: Annotated[Path | None, Spelling(path="existing file")] = Field(
        default=None,
        description="File with the bearer token that clients must send; the environment "
        f"variable {TOKEN_VARIABLE} can hold the token instead.",
    )
    quiet: bool = Field(default=False, description="Log warnings and errors only.")


def _long_enough(token: SecretStr) -> SecretStr:
    if len(token.get_secret_value()) < SHORTEST_TOKEN:
        raise ValueError(f"a token needs at least {SHORTEST_TOKEN} characters")
    return token


class ServeConfig(ServeOptions):
    """Settings of the running service."""

    bundle: Path
    token: Annotated[SecretStr, AfterValidator(_long_enough)] | None = Field(
        default=None, description="Bearer token that clients must send."
    )
    routers: tuple[str, ...] = Field(
        default=(), description="Import paths, as module:name, of routers whose routes are added to the service's own."
    )

    @model_validator(mode="after")
    def _no_token_for_an_endpoint(self) -> Self:
        if self.as_endpoint is not None and self.token is not None:
            raise ValueError(
                "as_endpoint is for development, and AWS's clients cannot send a token; leave out as_endpoint or token"
            )
        return self

    @property
    def buffered_bytes(self) -> int:
        """Limit on the memory that the bodies of all requests and their responses take together, in bytes."""
        # More than `max_bytes`, or a body of an accepted size would never fit.
        return max(256_000_000, 2 * self.max_bytes)
