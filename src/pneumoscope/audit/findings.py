"""What the measurements mean, in sentences a reader without statistics understands, gravest first."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

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
from pneumoscope.audit.films import NAIVE
from pneumoscope.audit.shortcuts import CLASSES_TASK, HELD_OUT, TEST
from pneumoscope.dataset.manifest import RefusedFile
from pneumoscope.dataset.spelling import alike

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


def by_severity(findings: Iterator[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; in each the order in which they were found."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def of_leaks(
    same: Sequence[Alike], near: Sequence[Alike], conflicts: Sequence[Alike], patients: Sequence[SharedPatient]
) -> Iterator[Finding]:
    """Duplicates, conflicting labels and patients across splits."""
    shared: dict[str, list[SharedPatient]] = {}
    for each in patients:
        shared.setdefault(each.rule, []).append(each)
    for rule, group in shared.items():
        yield _shared_finding(rule, group)
    yield from _alike(
        "duplicate-crosses-splits", "error", _crossing(same), "with equal pixels in several splits", _LEAK
    )
    yield from _alike(
        "near-duplicate-crosses-splits", "error", _crossing(near), "re-encoded or resized in another split", _LEAK
    )
    yield from _alike(
        "conflicting-labels",
        "error",
        conflicts,
        "under several labels",
        "The same pixels cannot be two diagnoses: at least one label of each is wrong.",
    )
    yield from _alike(
        "conflicting-labels-of-near-duplicates",
        "warning",
        [each for each in near if len(set(each.labels)) > 1],
        "nearly identical to one of another label",
        "Either a re-encoded copy has a wrong label, or two children look the same. Look at them.",
    )
    within = [each for each in same if not each.crosses]
    yield from _alike(
        "duplicates",
        "note",
        within,
        f"several times in one split ({sum(len(each.films) - 1 for each in within):,} extra files)",
        "They count more than once in every figure. data prepare --drop-duplicates keeps one of each.",
    )
    yield from _alike(
        "near-duplicates",
        "note",
        [each for each in near if not each.crosses],
        "nearly identical to another of the same split",
        "Re-encoded or resized copies of one film, or two shots that look the same.",
    )


def of_classes(films: Mapping[str, int]) -> Iterator[Finding]:
    """Classes that are one by all but their spelling; `films` counts those of each."""
    for labels in alike(films):
        if len(labels) > 1:
            yield Finding(
                code="class-spellings",
                severity="warning",
                title=f"{len(labels)} classes differ in spelling only: {', '.join(map(repr, labels))}",
                meaning="They are mostly one: data prepare --merge-classes makes one of them.",
                films=(),
            )


def of_files(
    unreadable: Sequence[Odd],
    odd: Sequence[Odd],
    changed: Sequence[str],
    unlisted: Sequence[str],
    refused: Sequence[RefusedFile],
) -> Iterator[Finding]:
    """Files that are missing, changed, foreign, unreadable or odd."""
    yield from _named(
        "unreadable",
        "error",
        [each.film for each in unreadable],
        "that cannot be read as films",
        "They are missing or damaged; training and evaluation would stop at them.",
    )
    yield from _named(
        "changed-files",
        "error",
        changed,
        "changed since the manifest was written",
        "Somebody changed the folder after it was prepared: figures made on it cannot be repeated.",
    )
    yield from _named(
        "unlisted-files",
        "warning",
        unlisted,
        "in the split folders that the manifest does not name",
        "Whoever reads the folders, as torchvision's ImageFolder does, trains or tests on them.",
    )
    reasons = Counter(each.reason for each in refused).most_common(_MOST_REASONS)
    yield from _named(
        "not-taken",
        "warning",
        [each.name for each in refused],
        "of the source not taken",
        "; ".join(f"{count:,}: {reason.rstrip('.')}" for reason, count in reasons) + ".",
    )
    for kind in dict.fromkeys(each.kind for each in odd):
        severity, meaning = _ODD[kind]
        films = [each.film for each in odd if each.kind == kind]
        yield from _named(f"odd-{kind.replace(' ', '-')}", severity, films, f"unlike the others: {kind}", meaning)


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
        yield Finding(
            code=f"encoding-differs-{split}",
            severity="warning",
            title=f"{split}: the classes are stored differently",
            meaning=f"{'; '.join(facts)}. The file, not the child, tells the class: save all alike before training.",
            films=(),
        )


def of_shortcuts(shortcuts: Sequence[Shortcut], shifts: Sequence[Shift]) -> Iterator[Finding]:
    """What the class can be told from without a lung, and where test differs from train."""
    tested = {(each.features, each.task): each for each in shortcuts if each.tested_on == TEST}
    for each in shortcuts:
        if each.tested_on != HELD_OUT:
            continue
        test = tested.get((each.features, each.task))
        if each.accuracy.low - each.chance > _TELLING or each.auroc.low > _RANKING:
            yield Finding(
                code=f"shortcut-{each.features}-{each.task}",
                severity="warning",
                title=f"{_task(each)} can be told from {FEATURES[each.features]}",
                meaning=_shortcut_meaning(each, test),
                films=(),
            )
    for shift in shifts:
        if shift.auroc.low > _SHIFTED:
            yield Finding(
                code=f"shift-{shift.features}-{shift.label}",
                severity="warning",
                title=f"{shift.label}: the test films differ from the train films in {FEATURES[shift.features]}",
                meaning=(
                    f"Given one {shift.label} film of each part, the test film is recognised as such "
                    f"{_percent(shift.auroc.value)} of the time (50 % would be no difference): "
                    "a model can do worse on test than validation promises, without having learnt anything wrong."
                ),
                films=(),
            )


_ODD: dict[str, tuple[Severity, str]] = {
    "turned by its tag": ("note", "Software that ignores the EXIF orientation sees them lying or upside down."),
    "colour mode": ("note", "They are read as luma like all others; where only one class has them, they give it away."),
    "bit depth": (
        "note",
        "More than 8 bits are scaled by a window or each film's own range; who cuts them misreads them.",
    ),
    "tiny": ("note", "They hold less detail than a network's input; enlarging adds none."),
    "huge": ("note", "They cost time and memory to read, and may be stitched or scanned differently."),
    "aspect": ("warning", "Very long or very high: perhaps not one frontal chest film. Look at them."),
    "mostly blank": (
        "warning",
        "Little of the picture is film: a wrong crop, a cover or a blank exposure. Look at them.",
    ),
    "turned": ("warning", "They fit the mean film of this set only when turned. Look at them."),
    "inverted": ("warning", "They fit the mean film of this set only as negatives (MONOCHROME1?). Look at them."),
}


def _shared_finding(rule: str, group: Sequence[SharedPatient]) -> Finding:
    films = tuple(name for each in group for name in each.films)
    if rule == NAIVE:
        return Finding(
            code="number-crosses-splits",
            severity="note",
            title=f"{len(group):,} numbers in several splits by {rule}",
            meaning="Version 2 counts its patients anew for each class; the same number is not the same child.",
            films=films,
        )
    return Finding(
        code="patient-crosses-splits",
        severity="error",
        title=f"{len(group):,} {'patient' if len(group) == 1 else 'patients'} in several splits by {rule}",
        meaning=_LEAK,
        films=films,
    )


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


def _task(each: Shortcut) -> str:
    return "the class" if each.task == CLASSES_TASK else f"{each.task} or not"


def _interval(figure: Estimate) -> str:
    return f"{_percent(figure.value)} ({_percent(figure.low)} to {_percent(figure.high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _crossing(groups: Sequence[Alike]) -> list[Alike]:
    return [each for each in groups if each.crosses]


def _alike(code: str, severity: Severity, groups: Sequence[Alike], title: str, meaning: str) -> Iterator[Finding]:
    """One finding about films that are one, if there are any."""
    if groups:
        count = f"{len(groups):,} {'film' if len(groups) == 1 else 'films'}"
        names = tuple(name for each in groups for name in each.films)
        yield Finding(code=code, severity=severity, title=f"{count} {title}", meaning=meaning, films=names)


def _named(code: str, severity: Severity, files: Sequence[str], title: str, meaning: str) -> Iterator[Finding]:
    """One finding about single files, if there are any."""
    if files:
        count = f"{len(files):,} {'file' if len(files) == 1 else 'files'}"
        yield Finding(code=code, severity=severity, title=f"{count} {title}", meaning=meaning, films=tuple(files))
