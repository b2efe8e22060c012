"""Split and class folder of a source's files, by the names of their folders.

Below `train`, `val` and `test` the class is the next folder; elsewhere it is the innermost one. If the folders might
just as well be those of patients or masks, or of a split under an unknown name, an error asks for an option: nothing
is guessed.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from glob import escape
from typing import Literal, TypeAlias

from pneumoscope.errors import UsageError
from pneumoscope.settings.data import FolderLevel, SplitFolder

Part: TypeAlias = Literal["train", "test"]
PublishedSplit: TypeAlias = Literal["train", "val", "test"]

#: Ends the messages about class folders.
TABLE_ADVICE = "If the labels are in a table, pass --labels FILE."

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W_a-zA-Z]+")
_SPLIT = "train(?:ing)?|val(?:id(?:at(?:ion|e|ing))?)?|test(?:ing)?|dev"
_OTHER = r"sets?|data|datasets?|images?|imgs?|films?|files?|folder|parts?|splits?|chest|x|rays?|xrays?|cxrs?|stage|\d+"
_SPLIT_WORD = re.compile(rf"({_SPLIT})(?:{_OTHER})?")
_OTHER_WORD = re.compile(_OTHER)
_UNCLEAR = re.compile(rf"(?:{_SPLIT}){{2,}}|hold|holdout|heldout|eval|evaluation|development|unseen")
_MASK_WORD = re.compile(
    r"\w*masks?|seg|segs|segmentations?|labels?|labelmaps?|annotations?|gt|groundtruth|contours?|overlays?|heatmaps?"
)
_MASK_SUFFIX = re.compile(r"(?:[ _.-]+(?:\w*mask|seg|segmentation|label|annotation|gt))+$", re.IGNORECASE)
_CONTENT_WORD = re.compile(
    r"images?|imgs?|films?|pictures?|photos?|pngs?|jpe?gs?|dicoms?|dcms?|tiffs?|x|rays?|xrays?|cxrs?|radiographs?|raw|"
    r"data|originals?|files?"
)
# Words of diagnoses. In `a/ill` and `b/ill` they confirm that the inner folder is the class. In `ill/2019` and
# `well/2019` no such word confirms that `2019` is the class, so an error asks for an option.
_CLASS_WORD = re.compile(
    r"ab(?:normal|sent)|normals?|healthy|well|ill|sick|diseased?s?|control|infected|positive|negative|pos|neg|yes|no|"
    r"findings?|\w*pneumonia\w*|bacteria\w*|vir(?:us|al)|covid|sars|mers|ards|tb|tuberculosis|opacity|effusion|"
    r"cardiomegaly|atelectasis|consolidation|edema|emphysema|fibrosis|hernia|infiltrat\w+|mass|nodules?|pneumothorax|"
    r"pleural\w*|cancer|tumou?r|benign|malignant|bronchi\w+|influenza|fractures?|present"
)
_PATIENT = re.compile(
    r"(?:patients?|pat|pt|p|subjects?|subj|sub|cases?|persons?|study|studies|series|visit|session|accession|id)"
    r"[ _.#-]*[0-9]+",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"[0-9]+")
_FEW_FILMS = 5  # a folder with fewer films may be a patient's: most patients have one or two, classes many
_MAX_CLASSES = 10  # with more class folders than this, they may be patients'
_MAX_NAMES = 5  # in a message


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file's place in its source: its split, if the tree has splits, and its class folder."""

    split: PublishedSplit | None
    folder: str | None

    @property
    def part(self) -> Part | None:
        """The part that the split belongs to: test stays test, train and validation are joined."""
        return "train" if self.split == "val" else self.split


@dataclass(frozen=True, kw_only=True)
class FolderRules:
    """How a source's folders are to be read.

    `level` chooses the class folder. `splits` maps folders' lower-case names to splits. If `strict`, folders that can
    be read in two ways are an error; if not, the default reading is used.
    """

    level: FolderLevel | None = None
    splits: Mapping[str, SplitFolder] = field(default_factory=dict)
    strict: bool = True


_DEFAULT_RULES = FolderRules()


@lru_cache(maxsize=100_000)
def split_by_name(folder: str) -> PublishedSplit | Literal["unclear"] | None:
    """The split that a folder's name states; "unclear" if it might state one.

    >>> [split_by_name(name) for name in ("Training Set", "stage_2_val", "TESTING", "test_A", "trainval", "normal")]
    ['train', 'val', 'test', 'unclear', 'unclear', None]
    """
    words = words_of(folder)
    stated = {split_word(word) for word in words} - {None}
    if not stated:
        unclear = any(_UNCLEAR.fullmatch(word) for word in [*words, "".join(words)])
        return "unclear" if unclear else None
    if len(stated) > 1 or not all(split_word(word) or _OTHER_WORD.fullmatch(word) for word in words):
        return "unclear"
    return stated.pop()


def split_word(word: str) -> PublishedSplit | None:
    """The split that a lower-case word states, such as `training` or `testset`; else None."""
    if (match := _SPLIT_WORD.fullmatch(word)) is None:
        return None
    return "train" if match[1].startswith("train") else "test" if match[1].startswith("test") else "val"


def words_of(name: str) -> list[str]:
    """The words of a name in lower case; a capital within it begins a new word.

    >>> words_of("TrainingSet"), words_of("lung_masks-2")
    (['training', 'set'], ['lung', 'masks', '2'])
    """
    return [word.lower() for word in _WORD.findall(name)]


def place(name: str, splits: Mapping[str, SplitFolder] | None = None) -> Place:
    """The split and the class folder of a path.

    >>> place("chest_xray/test/NORMAL/IM-0001-0001.jpeg")
    Place(split='test', folder='NORMAL')
    >>> place("films/cat/1.png")
    Place(split=None, folder='cat')
    """
    folders = name.split("/")[:-1]
    split, at = _find_split(folders, splits or {})
    if split is None:
        return Place(split=None, folder=folders[-1] if folders else None)
    return Place(split=split, folder=folders[at + 1] if at + 1 < len(folders) else None)


def find_places(names: Sequence[str], rules: FolderRules = _DEFAULT_RULES) -> list[Place]:
    """The place of each path of a source other than the published archive; the folder is None outside any folder.

    Below a split's folder the class is the next folder, or the last one with `innermost`. Elsewhere it is the innermost
    one, or with `outermost` the first one that not all paths share. If images are in `train` and `test` themselves, and
    these are below at least two different folders (`CLASS/train/…`), it is the folder above.

    >>> names = ["ill/p1/a.png", "ill/p2/b.png", "well/p3/c.png", "well/p4/d.png"]
    >>> [each.folder for each in find_places(names, FolderRules(level="outermost"))]
    ['ill', 'ill', 'well', 'well']

    Raises:
        UsageError: the folders can be read in two ways, and `rules` do not state which is right.
    """
    folders = [name.split("/")[:-1] for name in names]
    splits = [_find_split(each, rules.splits) for each in folders]
    if rules.strict:
        refuse_unclear([each for each, (split, _) in zip(folders, splits, strict=True) if split is None], rules.splits)
    free = [at for at, (split, _) in enumerate(splits) if split is None and folders[at]]
    below = [at for at, (split, index) in enumerate(splits) if split is not None and len(folders[at]) > index + 1]
    chosen: dict[int, str] = dict(zip(free, _classes_without_split([folders[at] for at in free], rules), strict=True))
    inside = [folders[at][splits[at][1] + 1 :] for at in below]
    chosen |= zip(below, _classes_below_split(inside, rules), strict=True)
    chosen |= _classes_above_split(folders, splits)
    places = [Place(split=split, folder=chosen.get(at)) for at, (split, _) in enumerate(splits)]
    if rules.strict:
        _refuse_masks(names, places, rules.level)
    return places


def refuse_unclear(paths: Sequence[Sequence[str]], splits: Mapping[str, SplitFolder]) -> None:
    """Raise UsageError if a folder of these paths looks like a split's, but it is not clear which.

    Args:
        paths: the folders of each path that has no known split.
        splits: the splits of folders that the user has stated, by lower-case names.
    """
    names = {folder for path in paths for folder in path}
    unclear = sorted(each for each in names if split_by_name(each) == "unclear" and each.casefold() not in splits)
    if unclear:
        raise UsageError(
            f"{_quote_names(unclear)} might be the {'folder' if len(unclear) == 1 else 'folders'} of a split; pass "
            f'--split-folder "{unclear[0]}=test", or =train, =val, or =none if it is not a split.'
        )


def _find_split(folders: Sequence[str], named: Mapping[str, SplitFolder]) -> tuple[PublishedSplit | None, int]:
    """The split of the first folder that states one, and the folder's index; None and -1 if there is none."""
    for at, folder in enumerate(folders):
        split = named.get(folder.casefold()) or split_by_name(folder)
        if split in ("train", "val", "test"):
            return split, at
    return None, -1


def _classes_above_split(
    folders: Sequence[Sequence[str]], splits: Sequence[tuple[PublishedSplit | None, int]]
) -> dict[int, str]:
    """For paths directly in a split's folder, the folder above that one, if there are at least two such folders."""
    direct = [at for at, (split, index) in enumerate(splits) if split is not None and index == len(folders[at]) - 1]
    # With one folder above, that folder is the set (`chest_xray/train`), not a class.
    above = {at: folders[at][-2] for at in direct if len(folders[at]) > 1}
    return above if len(set(above.values())) > 1 else {}


def _classes_without_split(paths: Sequence[Sequence[str]], rules: FolderRules) -> list[str]:
    """The class folders of paths without a split."""
    outer, inner = _outermost(paths), [path[-1] for path in paths]
    if rules.level is None and rules.strict:
        _refuse_repeated(paths, outer, "innermost")
        _refuse_two_ways(paths, outer, "outermost folder", one_outer=False)
        _refuse_patients(inner, "innermost")
    return outer if rules.level == "outermost" else inner


def _classes_below_split(paths: Sequence[Sequence[str]], rules: FolderRules) -> list[str]:
    """The class folders of paths below a split's folder."""
    outer = [path[0] for path in paths]
    if rules.level is None and rules.strict:
        _refuse_two_ways(paths, outer, "folder below the split's", one_outer=len(set(outer)) == 1)
        _refuse_patients(outer, "outermost")
        _refuse_repeated(paths, outer, "outermost")
    return [path[-1] for path in paths] if rules.level == "innermost" else outer


def _outermost(paths: Sequence[Sequence[str]]) -> list[str]:
    """The first folder of each path after the folders that all paths share."""
    # A folder that all paths share names the set, not a class.
    deep = 0
    while paths and all(len(path) > deep + 1 and path[deep] == paths[0][deep] for path in paths):
        deep += 1
    return [path[deep] for path in paths]


def _refuse_two_ways(paths: Sequence[Sequence[str]], outer: Sequence[str], where: str, *, one_outer: bool) -> None:
    """Raise UsageError if inner folders may be those of patients: they have few films, or there is one outer folder.

    The message names no folder, because a folder may bear a patient's name. In the message, `where` stands for the
    outer folder. If `one_outer`, all paths have the same outer folder.
    """
    # Innermost and outermost are the same folder: there is nothing to decide.
    if all(path[-1] == one for path, one in zip(paths, outer, strict=True)):
        return
    kinds = len({tuple(path) for path in paths})
    if one_outer or len(paths) < _FEW_FILMS * kinds:
        inner, each = len({path[-1] for path in paths}), len(paths) / kinds
        raise UsageError(
            f"the class may be the {where} ({_count_names(len(set(outer)))}) or the innermost one "
            f"({_count_names(inner)}, about {each:.0f} films in each); pass --class-folder outermost or innermost, "
            f"and --patient-pattern if folders are those of patients. {TABLE_ADVICE}"
        )


def _refuse_patients(folders: Sequence[str], level: FolderLevel) -> None:
    """Raise UsageError if the classes may be patients: there are many with few films, or they are named like patients.

    Args:
        folders: the class folder of each film.
        level: the option that would choose these folders, for the message.
    """
    names = set(folders)
    few = len(folders) < _FEW_FILMS * len(names)
    # Names that differ only in their digits number something, such as patients, however many films each has.
    numbered = len({_DIGITS.sub("", name) for name in names}) == 1
    many = len(names) > _MAX_CLASSES and (few or numbered)
    if many or (len(names) > 1 and all(map(_PATIENT.fullmatch, names))):
        raise UsageError(
            f"{len(names):,} folders, with about {len(folders) / len(names):.0f} films each, would be {len(names):,} "
            f"classes, but may be those of patients. {TABLE_ADVICE} If they are classes, pass --class-folder {level}."
        )


def _refuse_repeated(paths: Sequence[Sequence[str]], outer: Sequence[str], level: FolderLevel) -> None:
    """Raise UsageError if inner folders of one name, such as `images` or `2019`, are in several outer ones.

    Args:
        paths: the folders of each film.
        outer: the outermost folder of each film that may be the class.
        level: the folder that would be the class; it is accepted if names of diagnoses confirm it.
    """
    above: dict[str, set[str]] = {}
    for path, one in zip(paths, outer, strict=True):
        # `images` in every class folder does not make it doubtful that the outer folder is the class.
        if path[-1] != one and not (level == "outermost" and _is_content(path[-1])):
            above.setdefault(path[-1], set()).add(one)
    repeated = sorted(name for name, folders in above.items() if len(folders) > 1)
    if repeated and not all(map(_names_diagnosis, repeated if level == "innermost" else set(outer))):
        raise UsageError(
            f"folders called {_quote_names(repeated)} are in several of {len(set(outer)):,} folders: which are the "
            "classes? Pass --class-folder outermost or innermost, and leave out folders of masks by --exclude. "
            f"{TABLE_ADVICE}"
        )


@lru_cache(maxsize=100_000)
def _names_diagnosis(folder: str) -> bool:
    """Whether a folder's name states a diagnosis, or that there is none."""
    return any(_CLASS_WORD.fullmatch(word) for word in words_of(folder))


@lru_cache(maxsize=100_000)
def is_mask_name(folder: str) -> bool:
    """Whether a folder's name states that it contains masks or labels, not films.

    >>> [is_mask_name(name) for name in ("lung masks", "leftMask", "Ground Truth", "normal")]
    [True, True, True, False]
    """
    words = words_of(folder)
    return any(_MASK_WORD.fullmatch(word) for word in [*words, "".join(words)])


def _is_content(folder: str) -> bool:
    """Whether a folder's name states nothing but that it contains images."""
    words = words_of(folder)
    return bool(words) and all(_CONTENT_WORD.fullmatch(word) for word in words)


def _refuse_masks(names: Sequence[str], places: Sequence[Place], level: FolderLevel | None) -> None:
    """Raise UsageError if files that are named like masks or labels share their names with other files.

    A class folder with such a name is accepted if `level` is given.
    """
    films: set[str] = set()
    masks: list[tuple[str, str]] = []
    for name, at in zip(names, places, strict=True):
        *folders, file = name.split("/")
        stem = file.rpartition(".")[0] or file
        core = _MASK_SUFFIX.sub("", stem)
        folder = next((each for each in folders if is_mask_name(each)), None)
        if folder is None and core == stem:
            films.add(stem)
        elif level is None or folder is None or at.folder != folder:
            masks.append((core, f"*{stem[len(core) :]}.*" if folder is None else escape(folder)))
    # A file is suspected only if its name without the mask's suffix is that of a film, as is usual for masks.
    found = Counter(pattern for core, pattern in masks if core in films)
    if found:
        patterns = [pattern for pattern, _ in found.most_common(_MAX_NAMES)]
        advice = " ".join(f'--exclude "{each}"' for each in patterns)
        raise UsageError(
            f"{sum(found.values()):,} files seem to be masks or labels of other files, by their folders or suffixes "
            f"and by their names. Leave them out with {advice}; if their folder is a class, pass "
            "--class-folder innermost."
        )


def _count_names(names: int) -> str:
    return f"{names:,} name{'' if names == 1 else 's'}"


def _quote_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(f"'{name}'" for name in names[:_MAX_NAMES]) + more
