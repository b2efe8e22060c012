"""From a finished run to a bundle: ONNX in fp32 or int8, parity with PyTorch, thresholds, golden cases, contract."""

from pneumoscope.export.exporter import PARITY_TOLERANCE, ExportSummary, export
from pneumoscope.training.predict import load_network

__all__ = ["PARITY_TOLERANCE", "ExportSummary", "export", "load_network"]
