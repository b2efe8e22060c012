"""How many grey levels are left of a film after decoding: a window or a LUT may leave a black picture.

A film that has lost nearly all of its greys is refused; for one that has lost many, the decision has a remark.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from pneumoscope.errors import UnsuitableError
from pneumoscope.imaging.radiograph import Luma, Radiograph, Reason

# Of 5,232 films at 224 px and 160 full-size ones, black and white together are at most a third of a film, and no film
# has fewer than 104 levels (benchmarks/greys.py). Tight collimation leaves more of a film black than that.
_SOFT_SHARE, _HARD_SHARE = 0.5, 0.9
_SOFT_LEVELS, _HARD_LEVELS = 80, 8
#: Share of the pixels below which a level does not count as used.
RARE = 1e-4
_LEAST_NAMED = 0.005  # a smaller share of black or white is not named in the message
CODE = "greys"


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A film's loss of greys, described in words. `hard`: so much is lost that the film must be refused."""

    description: str
    hard: bool


def loss(histogram: Sequence[float], by: str = "") -> Loss | None:
    """The loss of greys that a histogram shows; None if enough of them are left.

    Args:
        histogram: how many pixels have each of the 256 levels, black first.
        by: the transformation that was applied to the greys, such as `the DICOM's window`; empty for none.
    """
    total = sum(histogram)
    black, white = histogram[0] / total, histogram[-1] / total
    levels = sum(map((total * RARE).__lt__, histogram))
    if black + white > _SOFT_SHARE:
        shown = {name: share for name, share in (("black", black), ("white", white)) if share > _LEAST_NAMED}
        verb = "" if by else "is "
        what = " and ".join(f"{100 * share:.0f} % of the film {verb}{name}" for name, share in shown.items())
    elif levels < _SOFT_LEVELS:
        what = f"{levels} of 256 levels of grey" if by else f"the film has {levels} of 256 levels of grey"
    else:
        return None
    hard = black + white > _HARD_SHARE or levels < _HARD_LEVELS
    return Loss(description=f"{by} leaves {what}" if by else what, hard=hard)


def histogram(luma: Luma) -> list[int]:
    """How many pixels of a luma image (`uint8 [H, W]`) have each of the 256 levels, black first."""
    return Image.fromarray(luma).histogram()


def check_loss(found: Loss | None, radiograph: Radiograph | None = None) -> tuple[Reason, ...]:
    """The remark to report with the decision on a film that has lost greys; empty if it has not.

    Args:
        found: what `loss` has found.
        radiograph: carried by the exception, so that the model's gate can still say what the picture is.

    Raises:
        UnsuitableError: so much is lost that the film cannot be judged.
    """
    if found is None:
        return ()
    if found.hard:
        raise UnsuitableError(
            f"{found.description}: too little to judge; export the film again.", code=CODE, radiograph=radiograph
        )
    return (Reason(CODE, f"{found.description}; check whether the film can be judged."),)
