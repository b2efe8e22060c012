"""Archives and folders: listed and read safely, and the published ones fetched."""

from pneumoscope.archive.listing import Listing, Member, Problem, is_junk, printable
from pneumoscope.archive.source import open_source

__all__ = ["Listing", "Member", "Problem", "is_junk", "open_source", "printable"]
