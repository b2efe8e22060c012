"""The decision on a film that never came to the engine: missing, too large for the way there, or without an answer."""

from pneumoscope.contract import Contract
from pneumoscope.engine.bundle import MODEL_FILE
from pneumoscope.engine.decision import Reason, reject
from pneumoscope.engine.prediction import Prediction

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
    reasons = (why,) if contract is None else reject(contract, why).why
    return Prediction(
        image=image,
        classes=() if contract is None else contract.classes,
        group_names=() if contract is None else tuple(contract.groups),
        status="rejected",
        label=None,
        class_index=None,
        probabilities={},
        groups={},
        prediction_set=(),
        reasons=tuple(each.text for each in reasons),
        reason_codes=tuple(each.code for each in reasons),
        attention=None,
        maps=None,
        luma=None,
        model=_UNKNOWN if contract is None else _model(contract),
        brightness=None,
        stages={},
    )


def _model(contract: Contract) -> dict[str, str]:
    return {"name": contract.name, "version": contract.version, "sha256": contract.files[MODEL_FILE]}
