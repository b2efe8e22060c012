"""The page for people, its examples, and the API's own documentation: all from this package, nothing from outside."""

from functools import cache
from importlib import resources
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from pneumoscope.heatmap import palette
from pneumoscope.phantom import Finding, encode_jpeg, film

_STATIC = Path(str(resources.files("pneumoscope.server"))) / "static"
_EXAMPLE_PATIENT = 7
_EXAMPLE_SIZE = (808, 1000)
_REVALIDATE = {"Cache-Control": "no-cache"}  # a new version of the page is seen at once

router = APIRouter(include_in_schema=False)


def install(app: FastAPI) -> None:
    """Add the page to an application."""
    import fastapi_offline

    app.include_router(router)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.mount("/docs/assets", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"), name="docs")


@router.get("/")
async def page() -> FileResponse:
    """The page."""
    return FileResponse(_STATIC / "index.html", headers=_REVALIDATE)


@router.get("/palette.json")
async def colours() -> JSONResponse:
    """The heat map's 256 colours, as red, green, blue."""
    return JSONResponse(palette().tolist(), headers={"Cache-Control": "max-age=86400"})


@router.get("/examples/{finding}.jpeg")
def example(finding: Finding) -> Response:
    """A phantom: a drawn film of no patient."""
    return Response(_phantom(finding), media_type="image/jpeg", headers={"Cache-Control": "max-age=86400"})


@router.get("/docs")
async def documentation() -> FileResponse:
    """Swagger UI over the OpenAPI document. Not by FastAPI's own page: its script is inline, and would be blocked."""
    return FileResponse(_STATIC / "docs.html", headers=_REVALIDATE)


@cache
def _phantom(finding: Finding) -> bytes:
    return encode_jpeg(film(finding, patient=_EXAMPLE_PATIENT, size=_EXAMPLE_SIZE))
