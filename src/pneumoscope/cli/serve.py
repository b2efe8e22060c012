"""`pneumoscope serve`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pneumoscope.cli.bundle_choice import BundleCommand, choose_bundle
from pneumoscope.cli.command import command
from pneumoscope.errors import UsageError

if TYPE_CHECKING:
    from pneumoscope.settings.serve import Serve, ServeConfig

_STAND_IN = "pneumoscope.aws.stand_in:router"  # an import path, because each worker process imports it itself


def register(app: typer.Typer) -> None:
    """Add the command to the command tree."""
    command(app, "serve", "serve.Serve", cls=BundleCommand)(serve_command)


def serve_command(settings: "Serve") -> None:
    """Serve a bundle: web page, HTTP API, metrics.

    The page is at /, the API's documentation at /docs, and SageMaker's routes are served, too. The service is
    ready once it has reproduced the bundle's golden cases. It stores nothing unless --keep-log is given. Ctrl-C or
    SIGTERM stops it after the requests under way. For research use only; not a medical device.
    """
    from pneumoscope.contract import DISCLAIMER, load_contract
    from pneumoscope.engine import choose_rule
    from pneumoscope.server.supervisor import listen, serve
    from pneumoscope.settings.serve import TOKEN_VARIABLE, is_loopback

    if settings.bundle is None and settings.as_endpoint is not None:
        raise UsageError("--bundle is missing; with --as-endpoint, name the bundle.")
    choice, host = choose_bundle(settings.bundle), settings.host
    config = _config(settings, choice.folder)
    contract = load_contract(choice.folder)  # before "starting" is printed, so that a broken bundle fails here
    choose_rule(contract, coverage=config.coverage, operating_point=config.operating_point)
    # The socket is bound before "starting" is printed, so that a port in use fails here, with a short message.
    with listen(config) as listener:
        port = listener.getsockname()[1]  # the one that --port 0 picked
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"starting {choice.describe(contract)} at http://{shown}:{port}/; Ctrl-C stops it.", err=True)
        typer.echo(DISCLAIMER, err=True)
        if config.token is None and not is_loopback(host):
            typer.echo(
                f"warning: anyone who reaches {host} can send requests; to prevent that, set {TOKEN_VARIABLE}.",
                err=True,
            )
        serve(config, listener, log_level="warning" if settings.quiet else "info")


def _config(settings: "Serve", bundle: Path) -> "ServeConfig":
    from pydantic import ValidationError

    from pneumoscope.documents import first_problem
    from pneumoscope.settings.serve import ServeConfig, ServeOptions

    shared = {name: getattr(settings, name) for name in ServeOptions.model_fields}
    try:
        routers = () if settings.as_endpoint is None else (_STAND_IN,)
        return ServeConfig(bundle=bundle, token=_read_token(settings.token_file), routers=routers, **shared)
    except ValidationError as failure:
        raise UsageError(f"{first_problem(failure)}; see `pneumoscope serve --help`.") from None


def _read_token(file: Path | None) -> str | None:
    """The token that clients must send, from the file or the environment variable; None if neither is given.

    It is not an option because every user of a machine can see the arguments of its processes.
    """
    from pneumoscope.settings.serve import SHORTEST_TOKEN, TOKEN_VARIABLE

    text = file.read_bytes().decode("ascii", "replace") if file else os.environ.get(TOKEN_VARIABLE)
    if text is None:
        return None
    token = text.strip()
    if len(token) < SHORTEST_TOKEN or not all("!" <= letter <= "~" for letter in token):
        raise UsageError(
            f"the token in {file or TOKEN_VARIABLE} is not usable; a token has at least {SHORTEST_TOKEN} characters: "
            "ASCII letters, digits and punctuation, no spaces."
        )
    return token
