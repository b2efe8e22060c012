"""From a bundle and the bytes of an image file to a decision, with ONNX Runtime and without torch.

`core` decodes and runs the model in threads, `gate` rejects unsuitable inputs, `decision` turns probabilities into a
decision, `attention` measures where the model looked, and `golden` checks the whole pipeline.
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
