"""`pneumoscope serve`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from pneumoscope.cli.aws import endpoint_name
from pneumoscope.cli.bundle import Bundle, choose_bundle
from pneumoscope.errors import UsageError

TOKEN = "PNEUMOSCOPE_TOKEN"  # noqa: S105 (the variable's name)
_STAND_IN = "pneumoscope.aws.stand_in:router"  # by its path: each worker process imports it for itself


def serve_command(
    bundle: Bundle = None,
    *,
    host: Annotated[
        str, typer.Option(envvar="PNEUMOSCOPE_HOST", help="Address to listen on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="PNEUMOSCOPE_PORT", min=0, max=65535, help="0 for any free one.")] = 8080,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; each loads the model and has its share of cores.")
    ] = 1,
    queue: Annotated[int, typer.Option(min=32, help="Films that may wait; more are answered 503.")] = 64,
    max_bytes: Annotated[int, typer.Option(min=1000, help="Largest request body.")] = 50_000_000,
    max_pixels: Annotated[int, typer.Option(min=1000, help="Refuse films with more pixels.")] = 50_000_000,
    read_seconds: Annotated[
        float, typer.Option(envvar="PNEUMOSCOPE_READ_SECONDS", help="A request's body must arrive in this time.")
    ] = 60,
    drain_seconds: Annotated[int, typer.Option(min=1, help="When stopped: time to finish requests under way.")] = 25,
    token_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help=f"File with a bearer token to ask for; or set {TOKEN}."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Web origin that may ask, such as https://pacs.example; repeatable.")
    ] = None,
    as_endpoint: Annotated[
        str | None,
        typer.Option(
            callback=endpoint_name,
            help="Also answer as this SageMaker endpoint, for clients with AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME.",
        ),
    ] = None,
    keep_log: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Append every decision to this file, as JSON lines.")
    ] = None,
    provider: Annotated[str, typer.Option(help="ONNX Runtime's execution provider: cpu, cuda, …")] = "cpu",
    quiet: Annotated[bool, typer.Option("--quiet", help="Log warnings and errors only.")] = False,
) -> None:
    """Serve a bundle: a page at /, an HTTP API (documented at /docs), SageMaker's contract, metrics.

    Ready when its golden cases came out right. Nothing is stored unless --keep-log. Ctrl-C or SIGTERM
    stops it after the requests under way. For research use only; not a medical device.
    """
    from pneumoscope.contract import DISCLAIMER, load_contract
    from pneumoscope.server.run import listen, serve

    if bundle is None and as_endpoint is not None:
        raise UsageError("--bundle is missing; an endpoint names its bundle, also one that is stood in for.")
    choice = choose_bundle(bundle)
    config = _config(
        bundle=choice.folder,
        host=host,
        port=port,
        workers=workers,
        queue=queue,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        read_seconds=read_seconds,
        drain_seconds=drain_seconds,
        token=_token(token_file),
        cors_origins=tuple(cors_origin or ()),
        as_endpoint=as_endpoint,
        routers=() if as_endpoint is None else (_STAND_IN,),
        keep_log=keep_log,
        provider=provider,
    )
    contract = load_contract(choice.folder)  # before anything is promised
    with listen(config) as listener:
        taken = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"starting {choice.named(contract)} at http://{shown}:{taken}/; Ctrl-C stops it.", err=True)
        typer.echo(DISCLAIMER, err=True)
        if config.token is None and not _is_loopback(host):
            typer.echo(f"warning: whoever reaches {host} may ask; to prevent that, set {TOKEN}.", err=True)
        serve(config, listener, log_level="warning" if quiet else "info")


def _config(**values: Any) -> Any:
    from pydantic import ValidationError

    from pneumoscope.documents import first_problem
    from pneumoscope.server.config import ServeConfig

    try:
        return ServeConfig(**values)
    except ValidationError as failure:
        raise UsageError(f"{first_problem(failure)}; see `pneumoscope serve --help`.") from None


def _token(file: Path | None) -> str | None:
    """The token to ask for: a file's text, or the variable's. Not an option, which every user of a machine can see."""
    given = file.read_bytes().decode("ascii", "replace") if file else os.environ.get(TOKEN)
    if given is None:
        return None
    from pneumoscope.server.config import SHORTEST_TOKEN

    token = given.strip()
    if len(token) < SHORTEST_TOKEN or not all("!" <= letter <= "~" for letter in token):
        raise UsageError(
            f"the token of {file or TOKEN} is not usable; a token has at least {SHORTEST_TOKEN} letters, digits and "
            "signs of ASCII, without spaces."
        )
    return token


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
