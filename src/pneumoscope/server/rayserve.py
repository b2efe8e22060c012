"""The service as a Ray Serve application, for AWS's Ray Serve image (or any Ray cluster)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from pneumoscope.errors import PneumoscopeError
from pneumoscope.server.app import create_app
from pneumoscope.server.sagemaker import invoke
from pneumoscope.settings.serve import ServeConfig

if TYPE_CHECKING:
    from ray.serve import Application

_MAX_REQUESTS = 64  # in one replica at a time; Ray queues the others


def application(bundle: Path) -> "Application":
    """The Ray Serve application of one bundle. A replica that does not reproduce the golden cases does not start.

    Raises:
        ModuleNotFoundError: Ray Serve is not installed; AWS's image has it.
    """
    from ray import serve

    def build() -> FastAPI:
        app = create_app(ServeConfig(bundle=bundle), on_failure=_stop, ready_first=True)
        app.post("/", include_in_schema=False)(invoke)  # where the image's adapter sends every invocation
        return app

    class Pneumoscope:
        """One replica; the application does its work."""

    replica: Any = serve.deployment(name="pneumoscope", max_ongoing_requests=_MAX_REQUESTS)(
        serve.ingress(build)(Pneumoscope)
    )
    bound: Application = replica.bind()
    return bound


def _stop(failure: PneumoscopeError) -> None:
    raise failure
