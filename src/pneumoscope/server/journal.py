"""A log of decisions, kept only if asked for: one JSON line a film, without a name, a pixel or an identifier."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from pneumoscope.engine import Prediction
from pneumoscope.errors import UsageError

_MODE = 0o600
_KEPT = {"status", "class_index", "label", "probabilities", "prediction_set", "coverage", "reason_codes", "model"}


class Journal:
    """An append-only file. A line is one write, so that threads and processes may share it."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            UsageError: it cannot be written.
        """
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)
        except OSError as failure:
            raise UsageError(
                f"decisions cannot be kept in {path} ({failure.strerror}); give --keep-log a file to write."
            ) from failure

    def keep(self, data: bytes, prediction: Prediction, request_id: str) -> None:
        """Append what was decided on a film of these bytes.

        Raises:
            OSError: the line could not be written whole.
        """
        document = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "sha256": hashlib.sha256(data).hexdigest(),
            **prediction.document().model_dump(mode="json", by_alias=True, include=_KEPT),
        }
        line = json.dumps(document, allow_nan=False).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("the disk is full")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
