"""Suppresses messages of libraries about their own workings while a block runs."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def quiet(*names: str, advice: Sequence[str] = ("",)) -> Iterator[None]:
    """Suppress warnings, and the messages of some loggers that are less severe than errors.

    Args:
        names: names of the loggers; `root` is the root logger.
        advice: regular expressions for the beginnings of suppressed warnings; by default all are suppressed.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for message in advice:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
