"""From a bundle and the bytes of a film to a decision, with ONNX Runtime and without torch.

`core` runs the model and the threads before it, `decision` is where probabilities become an answer,
`attention` measures where the model looked, `golden` checks the whole way.
"""

from pneumoscope.engine.attention import Attention
from pneumoscope.engine.bundle import MODEL_FILE, Outputs
from pneumoscope.engine.core import BATCH, DecodedFilm, Engine, ImageFile
from pneumoscope.engine.decision import Rule, choose_rule, judge
from pneumoscope.engine.document import DecisionDocument, Level, Status
from pneumoscope.engine.golden import GOLDEN_FILE, GOLDEN_FOLDER, Verification, verify
from pneumoscope.engine.prediction import Prediction
from pneumoscope.engine.refusal import rejection

__all__ = [
    "BATCH",
    "GOLDEN_FILE",
    "GOLDEN_FOLDER",
    "MODEL_FILE",
    "Attention",
    "DecisionDocument",
    "DecodedFilm",
    "Engine",
    "ImageFile",
    "Level",
    "Outputs",
    "Prediction",
    "Rule",
    "Status",
    "Verification",
    "choose_rule",
    "judge",
    "rejection",
    "verify",
]
