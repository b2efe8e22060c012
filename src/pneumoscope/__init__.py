"""Classifies chest X-rays as normal, bacterial or viral pneumonia. For research only; not a medical device."""

__version__ = "0.1.0"
