"""From a finished run to a bundle: ONNX model, parity check, gate, thresholds, golden cases, contract."""

from pneumoscope.export.exporter import PARITY_TOLERANCE, ExportSummary, export
from pneumoscope.training.predict import load_network

__all__ = ["PARITY_TOLERANCE", "ExportSummary", "export", "load_network"]
