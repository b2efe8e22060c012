"""The bundle that ships with the package, which the command line uses unless it is given another.

Only the command line falls back to it: containers, endpoints and jobs must name their bundle.
"""

from importlib import resources
from pathlib import Path

from pneumoscope.errors import BundleError

SHIPPED = "pneumoscope-base"


def shipped_bundle() -> Path:
    """The folder of the bundle that ships with the package.

    Raises:
        BundleError: this installation lacks it.
    """
    folder = Path(str(resources.files(__name__))) / SHIPPED
    if not folder.is_dir():
        raise BundleError(
            f"this installation lacks the bundle {SHIPPED}, which ships with the package; give --bundle DIR."
        )
    return folder
