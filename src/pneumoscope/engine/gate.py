"""Whether an input is a usable frontal chest film, by the gate in the graph, and faults that can be corrected."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pneumoscope.contract import FILM, MIRRORED, Gate
from pneumoscope.engine.texture import textures
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
#: Kinds that are often coloured. Where textures do not decide, the one with the highest score is reported.
_PHOTOGRAPH, _DRAWING, _SCREENSHOT = "photograph", "drawing", "screenshot"
_COLOURED = (_PHOTOGRAPH, _DRAWING, _SCREENSHOT)
_TRANSPARENT = 0.25  # a screenshot of a window may have transparent margins, but not over so much of it
# Added to a kind's total where a larger share is transparent, as if nine in ten such pictures were drawings or logos.
_CUT_OUT = {_DRAWING: math.log(9), _SCREENSHOT: -math.inf}
_UNDO: dict[str, Callable[[Luma], Luma]] = {
    "inverted": lambda luma: 255 - luma,
    "rotated-90": lambda luma: np.rot90(luma, 1),
    "rotated-180": lambda luma: np.rot90(luma, 2),
    "rotated-270": lambda luma: np.rot90(luma, 3),
}


def find_fault(
    gate: Gate,
    scores: NDArray[np.float32],
    distances: NDArray[np.float32],
    coloured: float | None,
    image: Luma,
    *,
    transparent: float = 0.0,
) -> Reason | None:
    """The reason to reject an input, or None.

    Args:
        gate: the contract's limits.
        scores: the graph's output `gate` for the input, `[F]`, one score per code of the contract.
        distances: its output `distance`, `[2]`: how far the input's features are from those of the training films.
        coloured: share of the picture's pixels whose colour differs from its tint; None if it was not measured.
        image: the input, `uint8 [1, S, S]`; its textures show which kind of picture a rejected one is.
        transparent: share of the picture's pixels that are transparent; a screenshot has few of them.
    """
    # Colour first: the graph sees only grey, so the scores cannot show it.
    shares = dict(zip(gate.codes, softmax(scores).tolist(), strict=True))
    cut_out = transparent > _TRANSPARENT
    if coloured is not None and coloured > gate.coloured:
        code = _kind(gate, scores, image, cut_out=cut_out) or max(_COLOURED, key=lambda each: shares.get(each, 0.0))
        return Reason(code, f"{_SENTENCES[code]}: {100 * coloured:.0f} % of its pixels are coloured.")
    if shares[FILM] + shares[MIRRORED] < gate.film_from:
        code = max((each for each in shares if each not in (FILM, MIRRORED)), key=shares.__getitem__)
        is_picture = code in _COLOURED or (cut_out and not can_undo(code))
        if is_picture and (kind := _kind(gate, scores, image, cut_out=cut_out)) is not None:
            # Textures decide, but a grey drawing with grain, such as our phantoms, has those of a photograph.
            code = code if (code, kind) == (_DRAWING, _PHOTOGRAPH) else kind
        return Reason(code, f"{_SENTENCES.get(code, code)}.{_advice(code)}")
    if any(distance > limit for distance, limit in zip(distances.tolist(), gate.distances, strict=True)):
        return Reason(
            "unlike-films",
            "the picture is unlike the chest films that the model was trained on; it may show another view or another "
            "part of the body, or come from another kind of machine.",
        )
    return None


def _kind(gate: Gate, scores: NDArray[np.float32], image: Luma, *, cut_out: bool) -> str | None:
    """The kind of a picture that is rejected, by its textures and its score; None for a gate without textures.

    A picture that is `cut_out` of its background is not a screenshot, and more often a drawing than a photograph.
    """
    if (rule := gate.textures) is None:
        return None
    found, of_code = textures(image[0]), dict(zip(gate.codes, scores.tolist(), strict=True))
    totals = {
        kind: rule.score_weight * of_code[kind]
        + float(np.dot(found, np.array(weights)))
        + rule.bias[kind]
        + (_CUT_OUT.get(kind, 0.0) if cut_out else 0.0)
        for kind, weights in rule.weights.items()
    }
    return max(totals, key=totals.__getitem__)


def mirror_warning(gate: Gate, scores: NDArray[np.float32]) -> Reason | None:
    """The warning that a film is probably mirrored, or None."""
    share = softmax(scores)[gate.codes.index(MIRRORED)]
    if share < gate.mirrored_from:
        return None
    return Reason(MIRRORED, "left and right seem to be exchanged: check the side marker, and consider dextrocardia.")


def is_not_radiograph(code: str) -> bool:
    """Whether a code means that the picture is not a radiograph at all, rather than one with a fault."""
    return code in _SENTENCES and code not in _UNDO


def can_undo(code: str) -> bool:
    """Whether the fault of this code can be corrected."""
    return code in _UNDO


def undo(code: str, luma: Luma) -> Luma:
    """A film, `uint8 [H, W]`, without its fault: turned back, or as a positive."""
    return np.ascontiguousarray(_UNDO[code](luma))


def undone_note(code: str) -> Reason:
    """The remark on a film whose fault was corrected."""
    return Reason(code, f"{_SENTENCES[code]}; this was corrected before the decision.")


def _advice(code: str) -> str:
    return " Correct the file, or use --fix-orientation." if can_undo(code) else ""
