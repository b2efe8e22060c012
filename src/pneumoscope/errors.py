"""The exceptions this package raises on purpose.

Every message is one sentence or two: what was given, what is accepted, what to do next.
"""

from typing import Any


class PneumoscopeError(Exception):
    """Base of every error a user can cause or mend."""


class UsageError(PneumoscopeError):
    """Options that contradict each other or a value outside its range."""


class ImageError(PneumoscopeError):
    """Bytes that are not a usable radiograph. `code` says so in a word, for programs."""

    code = "undecodable"


class UnsuitableError(ImageError):
    """An image that can be read and is no frontal chest radiograph; `code` says what it is, or lacks.

    `radiograph` is what was read of it, where something else may still say better what it is.
    """

    def __init__(self, message: str, *, code: str, radiograph: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.radiograph = radiograph


class DamagedImageError(ImageError):
    """An image that seems whole and is not: part of its coded data is changed or missing."""

    code = "damaged"


class ArchiveError(PneumoscopeError):
    """An archive or folder, or a member of one, that cannot be read safely."""


class DatasetError(PneumoscopeError):
    """A data set that is missing, damaged or cannot be made from the given sources."""


class RunError(PneumoscopeError):
    """A training run that is missing, unfinished or does not fit what is asked of it."""


class WeightsError(PneumoscopeError):
    """Network weights that cannot be fetched, read or matched to the network."""


class BundleError(PneumoscopeError):
    """A bundle that is missing, damaged, or not equal to the network it came from."""


class CloudError(PneumoscopeError):
    """AWS, or a service that stands in for it, refuses, lacks what is asked of it, or cannot be reached."""


class AnswerError(CloudError):
    """An endpoint that is there failed on this film; another film may well be answered."""


class BusyError(CloudError):
    """What failed now may work later: throttled, overloaded, not ready, out of reach."""


#: Codes of what no image can be read from.
UNREAD = frozenset({ImageError.code, DamagedImageError.code, "unreadable"})
