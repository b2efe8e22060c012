"""Prepared data sets: names, folders and tables that label films, manifest, patient-grouped splits."""

from pneumoscope.dataset.manifest import SPLITS, Dataset, Film, load_dataset
from pneumoscope.dataset.prepare import PrepareSummary, prepare
from pneumoscope.settings.data import PrepareConfig

__all__ = ["SPLITS", "Dataset", "Film", "PrepareConfig", "PrepareSummary", "load_dataset", "prepare"]
