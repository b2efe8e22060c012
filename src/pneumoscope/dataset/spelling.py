"""Classes that are spelled in several ways, such as `Normal` and `NORMAL `: an error, or merged on request."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping

from pneumoscope.errors import UsageError

_SEPARATORS = re.compile(r"[\s_-]+")
_MAX_PAIRS = 10


def group_spellings(films: Mapping[str, int]) -> list[list[str]]:
    """Group the classes that differ in case, spaces, `_`, `-` or Unicode form only; most films first.

    >>> group_spellings({"NORMAL": 3, "Normal ": 2, "ill": 1})
    [['NORMAL', 'Normal '], ['ill']]
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(films, key=lambda each: (-films[each], each != _tidy(each), each)):
        groups[_key(label)].append(label)
    return list(groups.values())


def canonical_spellings(films: Mapping[str, int], *, merge: bool) -> dict[str, str]:
    """The spelling to use for each class: its own, or with `merge` that with the most films.

    Args:
        films: how many films each class has, over all splits and sources.
        merge: merge classes that differ in spelling only; see `group_spellings`.

    Raises:
        UsageError: there are such classes and `merge` is false.
    """
    groups = group_spellings(films)
    pairs = [(labels[0], other) for labels in groups for other in labels[1:]]
    if pairs and not merge:
        listed = "; ".join(f"{_quoted(one, films)} and {_quoted(other, films)}" for one, other in pairs[:_MAX_PAIRS])
        raise UsageError(
            f"classes differ in case, spaces, _, - or Unicode form only: {listed}. If they are the same, pass "
            "--merge-classes, which keeps the spelling with the most films; if not, rename them."
        )
    return {label: labels[0] for labels in groups for label in labels}


def _tidy(label: str) -> str:
    return unicodedata.normalize("NFC", label).strip()


def _key(label: str) -> str:
    """A class's name without what may differ in spelling."""
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", label).casefold()) or label


def _quoted(label: str, films: Mapping[str, int]) -> str:
    """A class and its number of films; decomposed letters, which look like composed ones, as escapes."""
    shown = f"'{label}'" if unicodedata.is_normalized("NFC", label) else ascii(label)
    return f"{shown} ({films[label]:,} films)"
