"""The decision on a file that did not reach the engine: missing, too large to transfer, or without a response."""

from pneumoscope.contract import Contract
from pneumoscope.engine.bundle import model_name
from pneumoscope.engine.decision import Verdict, reject
from pneumoscope.engine.prediction import Prediction
from pneumoscope.imaging import Reason

_UNKNOWN = {"name": "", "version": "", "sha256": ""}


def rejection(contract: Contract | None, code: str, reason: str, *, image: str = "") -> Prediction:
    """A prediction of status `rejected`, with every key of the engine's own predictions.

    Args:
        contract: of the model that would have decided; None if the model is not known: its name is then empty.
        code: the reason's code.
        reason: the reason as a sentence.
        image: the file's name.
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
