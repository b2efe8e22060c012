"""The decision on a film that never came to the engine: missing, too large for the way there, or without an answer."""

from pneumoscope.contract import Contract
from pneumoscope.engine.bundle import model_name
from pneumoscope.engine.decision import Verdict, reject
from pneumoscope.engine.prediction import Prediction
from pneumoscope.imaging import Reason

_UNKNOWN = {"name": "", "version": "", "sha256": ""}


def rejection(contract: Contract | None, code: str, reason: str, *, image: str = "") -> Prediction:
    """A prediction of status `rejected`, with every key that the engine's own ones have.

    Args:
        contract: of the model that would have decided; None if it is not known which, and the model's name is empty.
        code: the reason in a word.
        reason: the reason in a sentence.
        image: the film's name.
    """
    why = Reason(code, reason)
    if contract is None:
        verdict = Verdict(status="rejected", why=(why,))
        return Prediction(**vars(verdict), image=image, classes=(), group_names=(), model=_UNKNOWN)
    return Prediction(
        **vars(reject(contract, why)),
        image=image,
        classes=contract.classes,
        group_names=tuple(contract.groups),
        model=model_name(contract),
    )
