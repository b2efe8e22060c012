"""Whether an input is a usable frontal chest film, by the gate in the graph, and what can be undone if it is not."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pneumoscope.contract import FILM, MIRRORED, Gate
from pneumoscope.imaging import Luma, Reason
from pneumoscope.metrics import softmax

GATE, DISTANCE = "gate", "distance"

_SENTENCES = {
    "inverted": "the film is a negative: black and white are exchanged",
    "rotated-90": "the film is turned by 90° clockwise",
    "rotated-180": "the film is upside down",
    "rotated-270": "the film is turned by 90° counterclockwise",
    "photograph": "the picture looks like a photograph, not like a radiograph",
    "drawing": "the picture looks like a drawing or a logo, not like a radiograph",
    "screenshot": "the picture looks like text or a screenshot, not like a radiograph",
    "noise": "the picture looks like noise, not like a radiograph",
    "slice": "the picture looks like a slice of CT or MR, not like a radiograph",
}
#: Pictures that may well have colours; the first if none of them is likely.
_COLOURED = ("photograph", "drawing", "screenshot")
_UNDO: dict[str, Callable[[Luma], Luma]] = {
    "inverted": lambda luma: 255 - luma,
    "rotated-90": lambda luma: np.rot90(luma, 1),
    "rotated-180": lambda luma: np.rot90(luma, 2),
    "rotated-270": lambda luma: np.rot90(luma, 3),
}


def find_fault(
    gate: Gate, scores: NDArray[np.float32], distances: NDArray[np.float32], coloured: float | None
) -> Reason | None:
    """Why an input is rejected, or None.

    Args:
        gate: the contract's limits.
        scores: the graph's output `gate` of the input, `[F]`, a score for each of the contract's codes.
        distances: its output `distance`, `[2]`: how far the input's features lie from the training films'.
        coloured: share of the picture's pixels that have a colour, None if it is not known.
    """
    shares = dict(zip(gate.codes, softmax(scores).tolist(), strict=True))
    if coloured is not None and coloured > gate.coloured:
        code = max(_COLOURED, key=lambda each: shares.get(each, 0.0))
        return Reason(code, f"{_SENTENCES[code]}: {coloured:.0%} of it has colours.")
    if shares[FILM] + shares[MIRRORED] < gate.film_from:
        code = max((each for each in shares if each not in (FILM, MIRRORED)), key=shares.__getitem__)
        return Reason(code, f"{_SENTENCES.get(code, code)}.{_advice(code)}")
    if any(distance > limit for distance, limit in zip(distances.tolist(), gate.distances, strict=True)):
        return Reason(
            "unlike-films",
            "the picture is unlike the chest films that the model was trained on; it may show another view or another "
            "part of the body, or be made otherwise.",
        )
    return None


def mirror_warning(gate: Gate, scores: NDArray[np.float32]) -> Reason | None:
    """That a film is probably mirrored, if it is so."""
    share = softmax(scores)[gate.codes.index(MIRRORED)]
    if share < gate.mirrored_from:
        return None
    return Reason(MIRRORED, "left and right look exchanged: compare with the marker, and think of dextrocardia")


def is_not_radiograph(code: str) -> bool:
    """Whether the code is of pictures that are no radiographs, and not of a radiograph's fault."""
    return code in _SENTENCES and code not in _UNDO


def can_undo(code: str) -> bool:
    """Whether the fault of this code can be undone."""
    return code in _UNDO


def undo(code: str, luma: Luma) -> Luma:
    """A film (`uint8 [H, W]`) without its fault: turned back, or as a positive."""
    return np.ascontiguousarray(_UNDO[code](luma))


def undone_note(code: str) -> Reason:
    """What is to be said of a film whose fault was undone."""
    return Reason(code, f"{_SENTENCES[code]}; this was undone before it was judged")


def _advice(code: str) -> str:
    return " Correct the file, or ask for it with --fix-orientation." if can_undo(code) else ""
