"""Archives and folders: listed and read safely, and the published ones fetched."""

from pneumoscope.archive.listing import Listing, Member, Problem, is_junk, open_source, printable

__all__ = ["Listing", "Member", "Problem", "is_junk", "open_source", "printable"]
