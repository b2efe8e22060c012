"""The service as a Ray Serve application, for AWS's Ray Serve image (or any Ray cluster)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from pneumoscope.errors import PneumoscopeError
from pneumoscope.server.app import create_app
from pneumoscope.settings.serve import ServeConfig

if TYPE_CHECKING:
    from ray.serve import Application

_MOST_WAITING = 64  # of requests in one replica; Ray keeps the others


class Root:
    """What is posted to `/` is an invocation: the image's adapter sends every one there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == "/":
            scope = {**scope, "path": "/invocations", "raw_path": b"/invocations"}
        await self._app(scope, receive, send)


def application(bundle: Path) -> "Application":
    """The Ray Serve application of one bundle. A replica whose golden cases come out otherwise does not start.

    Raises:
        ModuleNotFoundError: Ray Serve is not installed; it is in the image.
    """
    from ray import serve

    def build() -> Root:
        return Root(create_app(ServeConfig(bundle=bundle), on_failure=_stop, ready_first=True))

    class Pneumoscope:
        """One replica; the application does its work."""

    replica: Any = serve.deployment(name="pneumoscope", max_ongoing_requests=_MOST_WAITING)(
        serve.ingress(build)(Pneumoscope)
    )
    bound: Application = replica.bind()
    return bound


def _stop(failure: PneumoscopeError) -> None:
    raise failure
