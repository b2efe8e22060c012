"""The page for people, its examples, and the API's own documentation: all from this package, nothing from outside."""

from functools import cache
from importlib import resources
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
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
async def documentation(request: Request) -> HTMLResponse:
    """Swagger UI over the OpenAPI document."""
    root = request.scope.get("root_path", "")
    return HTMLResponse(_DOCUMENTATION.format(root=root), headers=_REVALIDATE)


@cache
def _phantom(finding: Finding) -> bytes:
    return encode_jpeg(film(finding, patient=_EXAMPLE_PATIENT, size=_EXAMPLE_SIZE))


_DOCUMENTATION = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pneumoscope: the HTTP API</title>
<link rel="icon" href="{root}/static/icon.svg">
<link rel="stylesheet" href="{root}/docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{root}/docs/assets/swagger-ui-bundle.js"></script>
<script src="{root}/static/docs.js"></script>
</body>
</html>
"""
