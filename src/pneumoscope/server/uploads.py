"""Request bodies: one film as the body, or several as a form. Read with limits, and kept in memory only."""

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from pneumoscope.server.service import Reserve, Service
from pneumoscope.settings.serve import MOST_FILMS, RAW, film_type

FORM = "multipart/form-data"


@dataclass(frozen=True, kw_only=True)
class UploadedFilm:
    """A film's bytes, and its file name, if the client sent one. The name goes back to the client and nowhere else."""

    name: str
    data: bytes


async def read_films(request: Request, service: Service, reserve: Reserve) -> list[UploadedFilm]:
    """The films of a request, in order; one if the body is not a form.

    Raises:
        HTTPException: 400, 408, 413 or 415, or 503 if memory is full.
        starlette.requests.ClientDisconnect: the client went away.
    """
    content_type = media_type(request)
    if "content-encoding" in request.headers:
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "the body is encoded (Content-Encoding); send the image file as it is.",
            headers={"Accept-Encoding": "identity"},
        )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > service.config.max_bytes:
        raise _too_large(service)
    try:
        async with asyncio.timeout(service.config.read_seconds):
            body = _limited(request, service, reserve)
            films = await _form(request, body, service) if content_type == FORM else [await _whole(body)]
    except TimeoutError:
        raise HTTPException(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body did not arrive within {service.config.read_seconds:g} s; send it again.",
            headers={"Connection": "close"},
        ) from None
    if not any(film.data for film in films):
        raise HTTPException(
            HTTPStatus.BAD_REQUEST, "the request has no film; send the bytes of an image file as the body."
        )
    return films


def media_type(request: Request) -> str:
    """The content type without its parameters.

    Raises:
        HTTPException: 415, if it is not accepted.
    """
    content_type, is_film = film_type(request.headers.get("content-type"))
    if is_film or content_type == FORM:
        return content_type
    accepted = ", ".join((*RAW, FORM))
    raise HTTPException(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"the content type is {content_type[:60] or 'missing'}; accepted: {accepted}. "
        "With curl: -H 'Content-Type: application/octet-stream'.",
        headers={"Accept": accepted},
    )


async def _limited(request: Request, service: Service, reserve: Reserve) -> AsyncGenerator[bytes, None]:
    """The body's parts, up to the limit. They are counted: a request may understate its length, or state none.

    Starlette's own `max_body_size` is not used, because it answers in plain text.
    """
    count = 0
    async for part in request.stream():
        count += len(part)
        if count > service.config.max_bytes:
            raise _too_large(service)
        reserve(len(part))
        yield part


async def _whole(body: AsyncGenerator[bytes, None]) -> UploadedFilm:
    return UploadedFilm(name="", data=b"".join([part async for part in body]))


async def _form(request: Request, body: AsyncGenerator[bytes, None], service: Service) -> list[UploadedFilm]:
    # File names are UTF-8 (RFC 7578 section 4.2, and what browsers send). The parser would decode them by any charset
    # that the client names; this parameter is therefore removed.
    content_type = re.sub(r";\s*charset=[^;]*", "", request.headers["content-type"], flags=re.IGNORECASE)
    parser = MultiPartParser(Headers({"content-type": content_type}), body, max_files=MOST_FILMS, max_fields=0)
    parser.spool_max_size = service.config.max_bytes + 1  # films stay in memory, never in a temporary file
    try:
        form = await parser.parse()
    except MultiPartException as failure:
        raise HTTPException(
            HTTPStatus.BAD_REQUEST,
            f"the form cannot be read: {failure.message} Send a form with up to {MOST_FILMS} files.",
        ) from failure
    films = []
    for _, value in form.multi_items():
        assert not isinstance(value, str)  # `max_fields=0` refuses fields
        films.append(UploadedFilm(name=value.filename or "", data=await value.read()))
        await value.close()
    return films


def _too_large(service: Service) -> HTTPException:
    return HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body exceeds the limit of {service.config.max_bytes:,} bytes; "
        "send fewer films at a time, or compressed ones.",
    )
