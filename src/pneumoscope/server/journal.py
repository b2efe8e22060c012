"""The optional log of decisions: one JSON line per film, without a file name, a pixel or a patient's identifier."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from pneumoscope.engine import Prediction
from pneumoscope.errors import UsageError

_MODE = 0o600  # decisions on patients' films are for the service's own user
_FIELDS = {"status", "class_index", "label", "probabilities", "prediction_set", "coverage", "reason_codes", "model"}


class Journal:
    """An append-only file. Each line is one write, so that threads and processes can share the file."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            UsageError: it cannot be written.
        """
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)
        except OSError as failure:
            raise UsageError(
                f"decisions cannot be kept in {path} ({failure.strerror}); give --keep-log a file that can be written."
            ) from failure

    def keep(self, data: bytes, prediction: Prediction, request_id: str) -> None:
        """Append the decision on the film with these bytes.

        Raises:
            OSError: the line could not be written whole.
        """
        document = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "sha256": hashlib.sha256(data).hexdigest(),
            **prediction.document().model_dump(mode="json", by_alias=True, include=_FIELDS),
        }
        line = json.dumps(document, allow_nan=False).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("the disk is full")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
