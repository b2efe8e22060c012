"""Libraries that talk about their own insides, kept quiet while a block runs."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def quiet(*names: str, advice: Sequence[str] = ("",)) -> Iterator[None]:
    """Pass over what loggers of these names say below an error, and warnings.

    Args:
        names: of the loggers; `root` is the root logger.
        advice: regular expressions, by which the warnings passed over begin; by default all are.
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
