"""Preparation of data sets: labels from names, folders or tables; every film once; splits by patient; the manifest."""

from pneumoscope.dataset.manifest import SPLITS, Dataset, Record, load_dataset
from pneumoscope.dataset.prepare import PrepareSummary, prepare
from pneumoscope.settings.data import PrepareConfig

__all__ = ["SPLITS", "Dataset", "PrepareConfig", "PrepareSummary", "Record", "load_dataset", "prepare"]
