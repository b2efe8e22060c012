"""What decoding has left of a film's greys: a window or a table may leave a black picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from pneumoscope.errors import UnsuitableError
from pneumoscope.imaging.radiograph import Luma, Radiograph, Reason

# Of 5,232 films at 224 px and 160 full-size ones, black and white together are at most a third of a film, and no film
# has fewer than 104 levels (benchmarks/greys.py). Tight collimation leaves more of a film black than that.
_SOFT_SHARE, _HARD_SHARE = 0.5, 0.9
_SOFT_LEVELS, _HARD_LEVELS = 80, 8
#: A level that fewer pixels have than this share is none.
RARE = 1e-4
_SHOWN = 0.005
CODE = "greys"


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Greys that are lost: so many that the film is refused (`hard`), or that it must be said. `words` say which."""

    words: str
    hard: bool


def loss(histogram: Sequence[float], by: str = "") -> Loss | None:
    """What a film has lost, if it is much, by how many pixels have each of the 256 levels.

    Args:
        histogram: 256 counts, black first.
        by: what has been done to the greys, such as `the DICOM's window`.
    """
    total = sum(histogram)
    black, white = histogram[0] / total, histogram[-1] / total
    levels = sum(map((total * RARE).__lt__, histogram))
    if black + white > _SOFT_SHARE:
        shown = {name: f"{share:.0%}" for name, share in (("black", black), ("white", white)) if share > _SHOWN}
        verb = "" if by else "is "
        what = " and ".join(f"{share} of the film {verb}{name}" for name, share in shown.items())
    elif levels < _SOFT_LEVELS:
        what = f"{levels} of 256 levels of grey" if by else f"the film has {levels} of 256 levels of grey"
    else:
        return None
    hard = black + white > _HARD_SHARE or levels < _HARD_LEVELS
    return Loss(words=f"{by} leaves {what}" if by else what, hard=hard)


def histogram(luma: Luma) -> list[int]:
    """How many pixels of a luma image (`uint8 [H, W]`) have each of the 256 levels, black first."""
    return Image.fromarray(luma).histogram()


def told(found: Loss | None, radiograph: Radiograph | None = None) -> tuple[Reason, ...]:
    """What to say with an answer; a refusal carries the radiograph.

    Raises:
        UnsuitableError: too much is lost.
    """
    if found is None:
        return ()
    if found.hard:
        raise UnsuitableError(
            f"{found.words}: too little to judge; export the film again.", code=CODE, radiograph=radiograph
        )
    return (Reason(CODE, f"{found.words}; look whether the film can be judged."),)
