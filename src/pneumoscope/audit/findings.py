"""The meaning of the measurements, in sentences for readers who know no statistics, most severe first."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pneumoscope.audit.distributions import ABSENT, PRESENT
from pneumoscope.audit.document import (
    SEVERITIES,
    Alike,
    Estimate,
    Finding,
    Oddity,
    Severity,
    SharedPatient,
    Shares,
    Shift,
    Shortcut,
    Spread,
)
from pneumoscope.audit.features import FEATURES
from pneumoscope.audit.reading import NAIVE
from pneumoscope.audit.shortcuts import CLASSES_TASK, HELD_OUT, TEST
from pneumoscope.dataset.manifest import RefusedFile
from pneumoscope.dataset.spelling import group_spellings
from pneumoscope.dataset.split import grouped

UNLISTED_UNREADABLE = "unreadable, and not in the manifest"

# Thresholds of warnings; intervals count by their lower end.
_ACCURACY_GAIN = 0.10  # accuracy above chance
_AUROC = 0.8  # or this AUROC: with one frequent class, accuracy cannot rise far above chance
_ACCURACY_LOSS = 0.05  # from cross-validation to test, of the values; the intervals must not overlap either
_LEAST_FILMS = 20  # of a class, to state how it is stored
_SHARE_DIFFERENCE = 0.5  # of a class's files, against the class that has the property least often
_SHIFT_AUROC = 0.65  # of train against test
_FILE_QUANTITIES = ("JPEG quality", "width", "height")
_MAX_REASONS = 3
_LEAK = (
    "Films or patients that are trained on are also tested on: figures on these splits are too good by an unknown "
    "amount. Make the data set again with data prepare."
)


# The meaning of each code, by severity. Codes that are not listed are warnings with a meaning made of their figures.
_MEANINGS: dict[Severity, dict[str, str]] = {
    "error": {
        "patient-crosses-splits": _LEAK,
        "duplicate-crosses-splits": _LEAK,
        "near-duplicate-crosses-splits": _LEAK,
        "conflicting-labels": "The same pixels cannot be two diagnoses: at least one of their labels is wrong.",
        "unreadable": "They are missing or damaged; training and evaluation would stop at them.",
        "changed-files": "The folder was changed after it was prepared: figures made on it cannot be reproduced.",
    },
    "warning": {
        "conflicting-labels-of-near-duplicates": (
            "Either a re-encoded copy has a wrong label, or two children look the same. Look at them."
        ),
        "unlisted-files": "Programs that read the folders, such as torchvision's ImageFolder, train or test on them.",
        "class-spellings": "They probably mean one class: data prepare --merge-classes merges them.",
        "odd-aspect": "Very wide or very tall: perhaps not one frontal chest film. Look at them.",
        "odd-mostly-blank": "Little of the picture is film: a wrong crop, a cover or a blank exposure. Look at them.",
        "odd-turned": "They fit the mean film of this set only when rotated. Look at them.",
        "odd-inverted": "They fit the mean film of this set only as negatives (MONOCHROME1?). Look at them.",
    },
    "note": {
        "number-crosses-splits": "Version 2 numbers patients separately in each class: an equal number does not mean "
        "the same child.",
        "duplicates": "They count more than once in every figure. data prepare --drop-duplicates keeps one of each.",
        "near-duplicates": "Re-encoded or resized copies of one film, or two shots that look the same.",
        "odd-turned-by-its-tag": "Software that ignores the EXIF orientation shows them on their side or upside down.",
        "odd-colour-mode": "They are read as luma like all others; a mode that only one class has reveals the class.",
        "odd-bit-depth": "More than 8 bits are scaled by a window or by each film's own range; software that cuts "
        "off the extra bits misreads these films.",
        "odd-tiny": "They have less detail than a network's input; enlarging adds none.",
        "odd-huge": "They cost time and memory to read, and may be stitched or scanned differently.",
    },
}


def by_severity(findings: Iterator[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; within each in the order in which they were found."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def leak_findings(
    same: Sequence[Alike], near: Sequence[Alike], conflicts: Sequence[Alike], patients: Sequence[SharedPatient]
) -> Iterator[Finding]:
    """Findings on duplicates, conflicting labels and patients across splits."""
    for rule, group in grouped(patients, lambda each: each.rule).items():
        what = ("number" if rule == NAIVE else "patient") + ("" if len(group) == 1 else "s")
        code = "number-crosses-splits" if rule == NAIVE else "patient-crosses-splits"
        yield _finding(code, f"{len(group):,} {what} in several splits, according to {rule}", _names(group))
    within = _where(same, crosses=False)
    extra = sum(len(each.films) - 1 for each in within)
    relabelled = [each for each in near if len(set(each.labels)) > 1]
    for code, groups, title in (
        ("duplicate-crosses-splits", _where(same, crosses=True), "with equal pixels in several splits"),
        ("near-duplicate-crosses-splits", _where(near, crosses=True), "re-encoded or resized in another split"),
        ("conflicting-labels", conflicts, "under several labels"),
        ("conflicting-labels-of-near-duplicates", relabelled, "nearly identical to one of another label"),
        ("duplicates", within, f"several times in one split ({extra:,} extra files)"),
        ("near-duplicates", _where(near, crosses=False), "nearly identical to another of the same split"),
    ):
        if groups:
            yield _finding(code, f"{_count(groups, 'film')} {title}", _names(groups))


def class_findings(films: Mapping[str, int]) -> Iterator[Finding]:
    """Findings on classes that differ in spelling only; `films` is the number of films of each class."""
    for labels in group_spellings(films):
        if len(labels) > 1:
            spelled = ", ".join(map(repr, labels))
            yield _finding("class-spellings", f"{len(labels)} classes differ in spelling only: {spelled}")


def file_findings(
    odd: Sequence[Oddity], changed: Sequence[str], unlisted: Sequence[str], refused: Sequence[RefusedFile]
) -> Iterator[Finding]:
    """Findings on files that are unreadable, changed, not in the manifest, refused or odd."""
    kinds = {kind: [each.film for each in group] for kind, group in grouped(odd, lambda each: each.kind).items()}
    kinds.pop(UNLISTED_UNREADABLE, None)
    for code, files, title in (
        ("unreadable", kinds.pop("unreadable", []), "that cannot be read as films"),
        ("changed-files", changed, "changed since the manifest was written"),
        ("unlisted-files", unlisted, "in the split folders, but not in the manifest"),
    ):
        if files:
            yield _finding(code, f"{_count(files, 'file')} {title}", files)
    if refused:
        reasons = Counter(each.reason for each in refused).most_common(_MAX_REASONS)
        meaning = "; ".join(f"{count:,}: {reason.rstrip('.')}" for reason, count in reasons) + "."
        title = f"{_count(refused, 'file')} of the source not used"
        yield _finding("not-taken", title, [each.name for each in refused], meaning=meaning)
    for kind, films in kinds.items():
        yield _finding(f"odd-{kind.replace(' ', '-')}", f"{_count(films, 'file')} unlike the others: {kind}", films)


def encoding_findings(spreads: Sequence[Spread], shares: Sequence[Shares]) -> Iterator[Finding]:
    """Findings on properties of the files, not of the films, that differ between the classes of one split."""
    differences: dict[str, list[str]] = {}
    shares = [row for row in shares if row.n >= _LEAST_FILMS]
    spreads = [row for row in spreads if row.n >= _LEAST_FILMS]
    for row in shares:
        same_split = [each for each in shares if (each.quantity, each.split) == (row.quantity, row.split)]
        for value, share in row.shares.items():
            least = min(same_split, key=lambda each: each.shares.get(value, 0.0))
            fewest = least.shares.get(value, 0.0)
            if value != ABSENT and share - fewest > _SHARE_DIFFERENCE:
                name = row.quantity if value == PRESENT else f"{row.quantity} {value}"
                differences.setdefault(row.split, []).append(
                    f"{name} in {_percent(share)} of {row.label} and {_percent(fewest)} of {least.label}"
                )
    for high in spreads:
        for low in spreads:
            comparable = (high.quantity, high.split) == (low.quantity, low.split) and high.quantity in _FILE_QUANTITIES
            # Each median lies outside the other class's range of 5 to 95 %.
            if comparable and high.low > low.median and high.median > low.high:
                medians = f"{_short(high.median)} in {high.label} and {_short(low.median)} in {low.label}"
                differences.setdefault(high.split, []).append(f"{high.quantity} about {medians}")
    for split, facts in differences.items():
        meaning = f"{'; '.join(facts)}. The file, not the child, reveals the class: store all alike before training."
        yield _finding(f"encoding-differs-{split}", f"{split}: the classes are stored differently", meaning=meaning)


def shortcut_findings(shortcuts: Sequence[Shortcut], shifts: Sequence[Shift]) -> Iterator[Finding]:
    """Findings on shortcuts, and on differences between test and train."""
    tested = {(each.features, each.task): each for each in shortcuts if each.tested_on == TEST}
    for each in shortcuts:
        is_shortcut = each.accuracy.low - each.chance > _ACCURACY_GAIN or each.auroc.low > _AUROC
        if each.tested_on == HELD_OUT and is_shortcut:
            task = "the class" if each.task == CLASSES_TASK else f"{each.task} or not"
            title = f"{task} can be predicted from {FEATURES[each.features]}"
            meaning = _shortcut_meaning(each, tested.get((each.features, each.task)))
            yield _finding(f"shortcut-{each.features}-{each.task}", title, meaning=meaning)
    for shift in shifts:
        if shift.auroc.low > _SHIFT_AUROC:
            title = f"{shift.label}: the test films differ from the train films in {FEATURES[shift.features]}"
            meaning = (
                f"Given one {shift.label} film of each part, the test film is recognised as such "
                f"{_percent(shift.auroc.value)} of the time (50 % would be no difference): "
                "a model can do worse on test than on validation without having learnt anything wrong."
            )
            yield _finding(f"shift-{shift.features}-{shift.label}", title, meaning=meaning)


def _shortcut_meaning(each: Shortcut, test: Shortcut | None) -> str:
    """The meaning of a shortcut, with its figures in cross-validation and on the test part."""
    meaning = (
        f"Right for {_interval(each.accuracy)} of films of unseen patients, without any detail of a lung; "
        f"always predicting the most frequent class is right for {_percent(each.chance)}; "
        f"AUROC {each.auroc.value:.2f}. A network that reaches this need not have learnt any medicine."
    )
    if test is None:
        return meaning
    meaning += f" On the test part: {_interval(test.accuracy)}."
    if each.accuracy.value - test.accuracy.value > _ACCURACY_LOSS and each.accuracy.low > test.accuracy.high:
        meaning += " Validation rewards this shortcut more than the test part does: choose models by the stress split."
    return meaning


def _interval(figure: Estimate) -> str:
    return f"{_percent(figure.value)} ({_percent(figure.low)} to {_percent(figure.high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things):,} {noun}{'' if len(things) == 1 else 's'}"


def _where(groups: Sequence[Alike], *, crosses: bool) -> list[Alike]:
    return [each for each in groups if each.crosses is crosses]


def _names(groups: Iterable[Alike | SharedPatient]) -> list[str]:
    return [name for each in groups for name in each.films]


def _finding(code: str, title: str, films: Iterable[str] = (), *, meaning: str | None = None) -> Finding:
    """A finding with the meaning and severity of its code; a warning with its own `meaning` for other codes."""
    severity: Severity = next((severity for severity, codes in _MEANINGS.items() if code in codes), "warning")
    text = meaning or _MEANINGS[severity][code]
    return Finding(code=code, severity=severity, title=title, meaning=text, films=tuple(films))
