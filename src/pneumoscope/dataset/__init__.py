"""Prepared data sets: file-name grammars, manifest, patient-grouped splits."""

from pneumoscope.dataset.manifest import SPLITS, Dataset, Film, PrepareConfig, load_dataset
from pneumoscope.dataset.prepare import PrepareSummary, prepare

__all__ = ["SPLITS", "Dataset", "Film", "PrepareConfig", "PrepareSummary", "load_dataset", "prepare"]
