"""The ASGI application."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pkgutil import resolve_name
from typing import Any

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from typing_extensions import override

from pneumoscope import __version__
from pneumoscope.contract import DISCLAIMER
from pneumoscope.errors import PneumoscopeError
from pneumoscope.server import problems, routes, sagemaker, web_page
from pneumoscope.server.boundary import Boundary
from pneumoscope.server.problems import ProblemDocument
from pneumoscope.server.service import Service
from pneumoscope.settings.serve import ServeConfig


def create_app(
    config: ServeConfig, *, on_failure: Callable[[PneumoscopeError], None] = lambda _: None, ready_first: bool = False
) -> FastAPI:
    """The service of one bundle. Its lifespan begins to load and verify the bundle; requests can arrive meanwhile.

    Args:
        config: settings.
        on_failure: called with the error if the bundle cannot be loaded or verified.
        ready_first: complete the lifespan's startup only once the service is ready or has failed, for servers that
            treat a completed startup as readiness.

    Raises:
        BundleError: the folder is not a bundle.
        UsageError: the log of decisions cannot be written.
    """
    service = Service(config, on_failure=on_failure)
    app = _Application(
        title="Pneumoscope",
        version=__version__,
        summary="Classifies chest X-rays and gives its reasons.",
        description=DISCLAIMER,
        docs_url=None,
        redoc_url=None,
        lifespan=partial(_lifespan, service=service, ready_first=ready_first),
        exception_handlers=problems.HANDLERS,
    )
    app.state.service = service
    guards = [] if config.token is None else [Depends(routes.require_token)]
    for part in (routes, sagemaker):
        app.include_router(part.router)
        app.include_router(part.guarded, dependencies=guards)
    for path in config.routers:
        app.include_router(resolve_name(path))
    web_page.install(app)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Prefer", "X-Request-Id"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_middleware(Boundary, telemetry=service.telemetry)
    return app


class _Application(FastAPI):
    """Adds to the OpenAPI document the problem document, which FastAPI leaves out, and two options' accepted values.

    An option of which the bundle accepts no value is left out of the document.
    """

    @override
    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        document["components"]["schemas"][ProblemDocument.__name__] = ProblemDocument.model_json_schema()
        decision = self.state.service.contract.decision
        accepted = {
            "coverage": [row.coverage for row in decision.table if row.coverage is not None],
            "operating_point": [point.name for point in decision.operating_points],
        }
        operation = document["paths"]["/v1/predictions"]["post"]
        for parameter in operation["parameters"]:
            if values := accepted.get(parameter["name"]):
                parameter["schema"] = {"enum": values, "title": parameter["schema"]["title"]}
        operation["parameters"] = [each for each in operation["parameters"] if accepted.get(each["name"]) != []]
        return document


@asynccontextmanager
async def _lifespan(_: FastAPI, *, service: Service, ready_first: bool) -> AsyncIterator[None]:
    starting = asyncio.create_task(service.start())
    try:
        if ready_first:
            await starting
        yield
    finally:
        starting.cancel()
        with suppress(asyncio.CancelledError, PneumoscopeError):  # `on_failure` has reported it
            await starting
        await asyncio.to_thread(service.stop)
