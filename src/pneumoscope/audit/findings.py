"""What the measurements mean, in sentences a reader without statistics understands, gravest first."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pneumoscope.audit.distributions import ABSENT, PRESENT
from pneumoscope.audit.document import (
    SEVERITIES,
    Alike,
    Estimate,
    Finding,
    Odd,
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
from pneumoscope.dataset.spelling import alike
from pneumoscope.dataset.split import grouped

UNLISTED_UNREADABLE = "unreadable, and not in the manifest"

_TELLING = 0.10  # accuracy above chance, at the interval's lower end, from which a shortcut is worth a warning
_RANKING = 0.8  # or AUROC, at its lower end: with one frequent class, accuracy cannot rise far above chance
_FALLING = 0.05  # loss of accuracy from cross-validation to test that is worth a warning
_ENOUGH = 20  # films of a class, to say how it is stored
_DIFFERENT_SHARE = 0.5  # of a class's files, against the class that has it least
_OF_FILES = ("JPEG quality", "width", "height")
_SHIFTED = 0.65  # AUROC of train against test, at the lower end
_MOST_REASONS = 3
_LEAK = (
    "What is trained on is also tested on: figures on these splits are too good, by an amount nobody knows. "
    "Make the data set anew with data prepare."
)


#: By severity and code, what a finding means; others are warnings, whose meaning is made of their figures.
_MEANINGS: dict[Severity, dict[str, str]] = {
    "error": {
        "patient-crosses-splits": _LEAK,
        "duplicate-crosses-splits": _LEAK,
        "near-duplicate-crosses-splits": _LEAK,
        "conflicting-labels": "The same pixels cannot be two diagnoses: at least one label of each is wrong.",
        "unreadable": "They are missing or damaged; training and evaluation would stop at them.",
        "changed-files": "Somebody changed the folder after it was prepared: figures made on it cannot be repeated.",
    },
    "warning": {
        "conflicting-labels-of-near-duplicates": (
            "Either a re-encoded copy has a wrong label, or two children look the same. Look at them."
        ),
        "unlisted-files": "Whoever reads the folders, as torchvision's ImageFolder does, trains or tests on them.",
        "class-spellings": "They are mostly one class: data prepare --merge-classes makes one of them.",
        "odd-aspect": "Very long or very high: perhaps not one frontal chest film. Look at them.",
        "odd-mostly-blank": "Little of the picture is film: a wrong crop, a cover or a blank exposure. Look at them.",
        "odd-turned": "They fit the mean film of this set only when turned. Look at them.",
        "odd-inverted": "They fit the mean film of this set only as negatives (MONOCHROME1?). Look at them.",
    },
    "note": {
        "number-crosses-splits": "Version 2 counts its patients anew for each class; the same number is not the same "
        "child.",
        "duplicates": "They count more than once in every figure. data prepare --drop-duplicates keeps one of each.",
        "near-duplicates": "Re-encoded or resized copies of one film, or two shots that look the same.",
        "odd-turned-by-its-tag": "Software that ignores the EXIF orientation sees them lying or upside down.",
        "odd-colour-mode": "They are read as luma like all others; where only one class has them, they give it away.",
        "odd-bit-depth": "More than 8 bits are scaled by a window or each film's own range; who cuts them misreads "
        "them.",
        "odd-tiny": "They hold less detail than a network's input; enlarging adds none.",
        "odd-huge": "They cost time and memory to read, and may be stitched or scanned differently.",
    },
}


def by_severity(findings: Iterator[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; in each the order in which they were found."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def of_leaks(
    same: Sequence[Alike], near: Sequence[Alike], conflicts: Sequence[Alike], patients: Sequence[SharedPatient]
) -> Iterator[Finding]:
    """Duplicates, conflicting labels and patients across splits."""
    for rule, group in grouped(patients, lambda each: each.rule).items():
        what = "numbers" if rule == NAIVE else "patient" if len(group) == 1 else "patients"
        code = "number-crosses-splits" if rule == NAIVE else "patient-crosses-splits"
        yield _finding(code, f"{len(group):,} {what} in several splits by {rule}", _names(group))
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


def of_classes(films: Mapping[str, int]) -> Iterator[Finding]:
    """Classes that are one by all but their spelling; `films` counts those of each."""
    for labels in alike(films):
        if len(labels) > 1:
            spelled = ", ".join(map(repr, labels))
            yield _finding("class-spellings", f"{len(labels)} classes differ in spelling only: {spelled}")


def of_files(
    odd: Sequence[Odd], changed: Sequence[str], unlisted: Sequence[str], refused: Sequence[RefusedFile]
) -> Iterator[Finding]:
    """Files that are missing, changed, foreign, unreadable or odd."""
    kinds = {kind: [each.film for each in group] for kind, group in grouped(odd, lambda each: each.kind).items()}
    kinds.pop(UNLISTED_UNREADABLE, None)
    for code, files, title in (
        ("unreadable", kinds.pop("unreadable", []), "that cannot be read as films"),
        ("changed-files", changed, "changed since the manifest was written"),
        ("unlisted-files", unlisted, "in the split folders that the manifest does not name"),
    ):
        if files:
            yield _finding(code, f"{_count(files, 'file')} {title}", files)
    if refused:
        reasons = Counter(each.reason for each in refused).most_common(_MOST_REASONS)
        meaning = "; ".join(f"{count:,}: {reason.rstrip('.')}" for reason, count in reasons) + "."
        title = f"{_count(refused, 'file')} of the source not taken"
        yield _finding("not-taken", title, [each.name for each in refused], meaning=meaning)
    for kind, films in kinds.items():
        yield _finding(f"odd-{kind.replace(' ', '-')}", f"{_count(films, 'file')} unlike the others: {kind}", films)


def of_encoding(spreads: Sequence[Spread], shares: Sequence[Shares]) -> Iterator[Finding]:
    """Properties of the files, not of the films, that differ between the classes of one split."""
    told: dict[str, list[str]] = {}
    shares = [row for row in shares if row.n >= _ENOUGH]
    spreads = [row for row in spreads if row.n >= _ENOUGH]
    for row in shares:
        alone = [each for each in shares if (each.quantity, each.split) == (row.quantity, row.split)]
        for value, share in row.shares.items():
            least = min(alone, key=lambda each: each.shares.get(value, 0.0))
            fewest = least.shares.get(value, 0.0)
            if value != ABSENT and share - fewest > _DIFFERENT_SHARE:
                name = row.quantity if value == PRESENT else f"{row.quantity} {value}"
                told.setdefault(row.split, []).append(
                    f"{name} in {_percent(share)} of {row.label} and {_percent(fewest)} of {least.label}"
                )
    for high in spreads:
        for low in spreads:
            comparable = (high.quantity, high.split) == (low.quantity, low.split) and high.quantity in _OF_FILES
            if comparable and high.low > low.median and high.median > low.high:
                medians = f"{_short(high.median)} in {high.label} and {_short(low.median)} in {low.label}"
                told.setdefault(high.split, []).append(f"{high.quantity} about {medians}")
    for split, facts in told.items():
        meaning = f"{'; '.join(facts)}. The file, not the child, tells the class: save all alike before training."
        yield _finding(f"encoding-differs-{split}", f"{split}: the classes are stored differently", meaning=meaning)


def of_shortcuts(shortcuts: Sequence[Shortcut], shifts: Sequence[Shift]) -> Iterator[Finding]:
    """What the class can be told from without a lung, and where test differs from train."""
    tested = {(each.features, each.task): each for each in shortcuts if each.tested_on == TEST}
    for each in shortcuts:
        telling = each.accuracy.low - each.chance > _TELLING or each.auroc.low > _RANKING
        if each.tested_on == HELD_OUT and telling:
            task = "the class" if each.task == CLASSES_TASK else f"{each.task} or not"
            title = f"{task} can be told from {FEATURES[each.features]}"
            meaning = _shortcut_meaning(each, tested.get((each.features, each.task)))
            yield _finding(f"shortcut-{each.features}-{each.task}", title, meaning=meaning)
    for shift in shifts:
        if shift.auroc.low > _SHIFTED:
            title = f"{shift.label}: the test films differ from the train films in {FEATURES[shift.features]}"
            meaning = (
                f"Given one {shift.label} film of each part, the test film is recognised as such "
                f"{_percent(shift.auroc.value)} of the time (50 % would be no difference): "
                "a model can do worse on test than validation promises, without having learnt anything wrong."
            )
            yield _finding(f"shift-{shift.features}-{shift.label}", title, meaning=meaning)


def _shortcut_meaning(each: Shortcut, test: Shortcut | None) -> str:
    said = (
        f"Right for {_interval(each.accuracy)} of films of unseen patients, without any detail of a lung; "
        f"always naming the most frequent is right for {_percent(each.chance)}; AUROC {each.auroc.value:.2f}. "
        "A network that reaches this need not have learnt any medicine."
    )
    if test is None:
        return said
    said += f" On the test part: {_interval(test.accuracy)}."
    if each.accuracy.value - test.accuracy.value > _FALLING and each.accuracy.low > test.accuracy.high:
        said += " Validation rewards this shortcut more than the test part: prefer the stress split for choosing."
    return said


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
    """A finding with the meaning of its code, or with one of its own, as a warning."""
    severity: Severity = next((severity for severity, codes in _MEANINGS.items() if code in codes), "warning")
    words = meaning or _MEANINGS[severity][code]
    return Finding(code=code, severity=severity, title=title, meaning=words, films=tuple(films))
