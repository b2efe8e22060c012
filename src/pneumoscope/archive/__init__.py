"""Safe listing and reading of archives and folders, and download of the published archives."""

from pneumoscope.archive.listing import Listing, Member, Problem, is_junk, printable
from pneumoscope.archive.source import open_source

__all__ = ["Listing", "Member", "Problem", "is_junk", "open_source", "printable"]
