"""The command line: parse, call one function, print. The only place that prints."""

from pneumoscope.cli.app import main

__all__ = ["main"]
