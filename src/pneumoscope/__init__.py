"""Classifies chest X-rays: normal, bacterial pneumonia, viral pneumonia. For research only; not a medical device."""

import os

# ONNX Runtime 1.32 otherwise keeps a record of its use below ~/.cache/Microsoft, to send it. It reads this on import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
