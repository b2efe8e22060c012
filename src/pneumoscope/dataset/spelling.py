"""Classes that are spelled in several ways, such as `Normal` and `NORMAL `: stopped, or merged if asked for."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping

from pneumoscope.errors import UsageError

_BETWEEN = re.compile(r"[\s_-]+")
_MOST_PAIRS = 10


def alike(films: Mapping[str, int]) -> list[list[str]]:
    """The classes in groups that differ in case, spaces, `_`, `-` or Unicode form only; most films first.

    >>> alike({"NORMAL": 3, "Normal ": 2, "ill": 1})
    [['NORMAL', 'Normal '], ['ill']]
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(films, key=lambda each: (-films[each], each != _tidy(each), each)):
        groups[_key(label)].append(label)
    return list(groups.values())


def merged_spellings(films: Mapping[str, int], *, merge: bool) -> dict[str, str]:
    """The class under which the films of each go: itself, or with `merge` the spelling that has most films.

    Args:
        films: how many films each class has, over all splits and sources.
        merge: merge what differs in spelling only; see `alike`.

    Raises:
        UsageError: there are such classes, and they are not to be merged.
    """
    groups = alike(films)
    pairs = [(labels[0], other) for labels in groups for other in labels[1:]]
    if pairs and not merge:
        said = "; ".join(f"{_quoted(one, films)} and {_quoted(other, films)}" for one, other in pairs[:_MOST_PAIRS])
        raise UsageError(
            f"classes differ in case, spaces or the form of their letters only: {said}. If they are the same, pass "
            "--merge-classes, which keeps the spelling with most films; if not, rename the folders."
        )
    return {label: labels[0] for labels in groups for label in labels}


def _tidy(label: str) -> str:
    return unicodedata.normalize("NFC", label).strip()


def _key(label: str) -> str:
    """What a class is called apart from its spelling."""
    return _BETWEEN.sub("", unicodedata.normalize("NFKC", label).casefold()) or label


def _quoted(label: str, films: Mapping[str, int]) -> str:
    """A class and its films; letters in two parts, which look like those in one, by their code points."""
    shown = f"'{label}'" if unicodedata.is_normalized("NFC", label) else ascii(label)
    return f"{shown} ({films[label]:,} films)"
