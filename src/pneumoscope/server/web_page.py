"""The web page for users, its example drawings, and the API's documentation. Nothing is loaded from other hosts."""

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
_REVALIDATE = {"Cache-Control": "no-cache"}  # browsers see a new version of the page at once

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
    """A phantom: a drawing, not a patient's film."""
    return Response(_phantom(finding), media_type="image/jpeg", headers={"Cache-Control": "max-age=86400"})


@router.get("/docs")
async def documentation() -> FileResponse:
    """Swagger UI for the OpenAPI document. FastAPI's own page has an inline script, which `PAGE_POLICY` blocks."""
    return FileResponse(_STATIC / "docs.html", headers=_REVALIDATE)


@cache
def _phantom(finding: Finding) -> bytes:
    return encode_jpeg(film(finding, patient=_EXAMPLE_PATIENT, size=_EXAMPLE_SIZE))
