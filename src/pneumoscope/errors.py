"""The exceptions that this package raises on purpose.

Every message is one or two sentences: what was given, what is accepted, what to do next.
"""

from typing import Any


class PneumoscopeError(Exception):
    """Base of every error that a user can cause or fix."""


class UsageError(PneumoscopeError):
    """Options that contradict each other, or a value outside its range."""


class ImageError(PneumoscopeError):
    """Bytes that are not a usable radiograph. `code` is the reason for programs, in one word."""

    code = "undecodable"


class UnsuitableError(ImageError):
    """A readable image that is not a frontal chest radiograph; `code` names what it is, or what it lacks.

    `radiograph` is what was decoded, if there is any: the gate may find a more specific reason in it.
    """

    def __init__(self, message: str, *, code: str, radiograph: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.radiograph = radiograph


class DamagedImageError(ImageError):
    """An image that seems whole but is not: part of its coded data is changed or missing."""

    code = "damaged"


class ArchiveError(PneumoscopeError):
    """An archive or folder, or a member of one, that cannot be read safely."""


class DatasetError(PneumoscopeError):
    """A data set that is missing, damaged or cannot be made from the given sources."""


class RunError(PneumoscopeError):
    """A training run that is missing, unfinished or unsuitable for the command."""


class WeightsError(PneumoscopeError):
    """Network weights that cannot be fetched, read or matched to the network."""


class BundleError(PneumoscopeError):
    """A bundle that is missing, damaged, or not equal to the network it came from."""


class ScoringError(PneumoscopeError):
    """An archive that could not be scored to its end; the parts that are written stay."""


class CloudError(PneumoscopeError):
    """AWS, or a stand-in for it, refuses a request, lacks a resource, or cannot be reached."""


class InferenceError(CloudError):
    """A working endpoint failed on this film; it may still decide on others."""


class BusyError(CloudError):
    """A request that may succeed later: throttled, overloaded, not ready, out of reach."""


#: Codes for bytes from which no image can be read.
UNREAD = frozenset({ImageError.code, DamagedImageError.code, "unreadable"})
