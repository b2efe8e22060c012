"""Starts the service, keeps its workers running, and stops it without losing a request."""

import os
import signal
import socket
import tempfile
from contextlib import ExitStack
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from pneumoscope.contract import load_contract
from pneumoscope.engine import Engine, verify
from pneumoscope.errors import PneumoscopeError, UsageError
from pneumoscope.server.app import create_app
from pneumoscope.server.journal import Journal
from pneumoscope.server.protocol import Protocol
from pneumoscope.server.telemetry import MULTIPROCESS
from pneumoscope.settings.serve import ServeConfig

_BACKLOG = 2048  # connections that wait to be accepted; uvicorn's default


def listen(config: ServeConfig) -> socket.socket:
    """Bind the port.

    Raises:
        UsageError: the port is in use, or binding it is not permitted.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except OSError as failure:
        raise UsageError(
            f"cannot listen on {config.host}, port {config.port} ({failure.strerror}); choose another --host or --port."
        ) from failure


def serve(config: ServeConfig, listener: socket.socket, *, log_level: str = "info") -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are answered first.

    Raises:
        BundleError: the bundle cannot be loaded, or does not reproduce its golden cases.
        KeyboardInterrupt: Ctrl-C, after the last response.
    """
    load_contract(config.bundle)
    if config.workers == 1:
        _serve_in_this_process(config, listener, log_level)
    else:
        _serve_in_workers(config, listener, log_level)


def _serve_in_this_process(config: ServeConfig, listener: socket.socket, log_level: str) -> None:
    failures: list[PneumoscopeError] = []

    def on_failure(failure: PneumoscopeError) -> None:
        failures.append(failure)
        server.should_exit = True

    app = create_app(config, on_failure=on_failure)
    server = uvicorn.Server(_uvicorn_config(config, app, log_level))
    # uvicorn raises the signal again after it has stopped; then SIGTERM would terminate the process like a failure.
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _serve_in_workers(config: ServeConfig, listener: socket.socket, log_level: str) -> None:
    # Check here first, because the supervisor restarts a failing worker again and again.
    if config.keep_log is not None:
        Journal(config.keep_log).close()
    verify(config.bundle, engine=Engine.load(config.bundle, provider=config.provider))
    with ExitStack() as stack:
        os.environ[MULTIPROCESS] = stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumoscope-"))
        stack.callback(os.environ.pop, MULTIPROCESS)
        options = _uvicorn_config(config, partial(worker, config), log_level, factory=True, workers=config.workers)
        supervisor = _Supervisor(options, sockets=[listener])
        supervisor.run()
    if supervisor.interrupted:
        raise KeyboardInterrupt


class _Supervisor(Multiprocess):
    """uvicorn's supervisor; this one remembers that Ctrl-C stopped it."""

    interrupted = False

    def handle_int(self) -> None:
        self.interrupted = True
        super().handle_int()


def worker(config: ServeConfig) -> FastAPI:
    """The application of one worker process."""
    return create_app(config, on_failure=lambda _: signal.raise_signal(signal.SIGTERM))


def _uvicorn_config(config: ServeConfig, app: Any, log_level: str, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=_log_config(log_level),
        access_log=False,  # uvicorn's has paths and addresses; `boundary` logs without them
        server_header=False,
        timeout_graceful_shutdown=config.drain_seconds,
        **more,
    )


def _log_config(level: str) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "loggers": {
            "pneumoscope": {"handlers": ["stderr"], "level": level.upper(), "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            "uvicorn.error": {"level": "WARNING"},
            "python_multipart": {"level": "CRITICAL", "propagate": False},  # its messages quote the upload
        },
    }
