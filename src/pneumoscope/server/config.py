"""How the service is set up."""

import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

SHORTEST_TOKEN = 16
MOST_FILMS = 32  # in one request


class ServeConfig(BaseModel):
    """Settings of `pneumoscope serve`. Sizes are in bytes, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=64, description="Processes.")
    provider: str = "cpu"
    queue: int = Field(default=64, ge=MOST_FILMS, description="Films that may wait; more are answered 503.")
    max_bytes: int = Field(default=50_000_000, ge=1000, description="Of a request's body.")
    max_pixels: int = Field(default=50_000_000, ge=1000, description="Of a film.")
    read_seconds: float = Field(default=60, gt=0, description="In which a request must have arrived.")
    drain_seconds: int = Field(default=25, ge=1, description="For requests under way when told to stop.")
    token: SecretStr | None = Field(default=None, description="Asked of whoever wants a prediction.")
    cors_origins: tuple[str, ...] = ()
    as_endpoint: str | None = Field(default=None, description="Name of a SageMaker endpoint to stand in for.")
    routers: tuple[str, ...] = Field(
        default=(), description="Import paths, as module:name, of routers with routes beside the service's own."
    )
    keep_log: Path | None = Field(default=None, description="Where decisions are kept; nowhere if none.")

    @field_validator("token")
    @classmethod
    def _long_enough(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < SHORTEST_TOKEN:
            raise ValueError(f"a token needs at least {SHORTEST_TOKEN} characters")
        return token

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for each in given:
            if re.fullmatch(r"\*|https?://[^/\s]+", each) is None:
                raise ValueError(f"{each!r} is no web origin; write * or one without a path, like https://pacs.example")
        return given

    @model_validator(mode="after")
    def _stands_in_openly(self) -> Self:
        if self.as_endpoint is not None and self.token is not None:
            raise ValueError("as_endpoint is for developing, and AWS's clients cannot send a token; leave one out")
        return self

    @property
    def buffered_bytes(self) -> int:
        """The most that bodies of all requests together may take in memory."""
        return max(256_000_000, 2 * self.max_bytes)
