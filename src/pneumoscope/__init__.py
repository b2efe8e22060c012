"""Reads a chest X-ray and says normal, bacterial or viral pneumonia. Not a medical device."""

__version__ = "0.1.0"
