"""What the `data` commands print."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from pneumoscope.cli.show import print_line, stdout
from pneumoscope.dataset.split import grouped

if TYPE_CHECKING:
    from pneumoscope.audit.document import Audit, Estimate, Finding
    from pneumoscope.dataset import PrepareSummary
    from pneumoscope.dataset.manifest import RefusedFile

_MOST_REFUSED, _FEW = 50, 5
_MOST_NAMES = 40


def show_prepared(summary: "PrepareSummary") -> None:
    """Print films and patients by split and class, what each source contributed, and what was refused, by name."""
    table = Table("split", *map(escape, summary.classes), "films", title="films (patients)")
    for split, row in summary.counts.items():
        cells = [f"{films:,} ({patients:,})" for films, patients in row.values()]
        table.add_row(split, *cells, f"{sum(films for films, _ in row.values()):,}")
    stdout().print(table)
    if summary.labels is not None:
        print_line(summary.labels)
    if summary.without_file:
        print_line(f"{summary.without_file:,} images of the label files are not in any source")
    for source in summary.sources:
        line = f"{source.name}: {source.films:,} films read"
        for count, what in (
            (source.matched, "of them also in an earlier source"),
            (source.copies, "repeated copies dropped"),
            (source.junk, "junk entries dropped"),
            (source.excluded, "excluded"),
            (source.other_files, "other files ignored"),
            (source.refused, "refused"),
        ):
            line += f", {count:,} {what}" if count else ""
        if len(summary.sources) > 1:
            line += f"; {source.added:,} added"
        print_line(line)
        if not source.patients_named:
            print_line(
                "  not every film of this source names its patient; one that does not counts as a patient of its own. "
                "If such films share patients, pass --patient-pattern."
            )
    _show_likeness(summary)
    _show_refused(summary.refused)


def _show_likeness(summary: "PrepareSummary") -> None:
    """Print how many films are equal, pixel by pixel, or nearly identical."""
    extra = sum(len(group.films) - 1 for group in summary.duplicates)
    if extra:
        print_line(
            f"{len(summary.duplicates):,} groups of films with equal pixels ({extra:,} extra films); "
            "each group is in one split"
        )
    merged = sum(pair.merged for pair in summary.near_duplicates)
    if merged:
        print_line(f"{merged:,} pairs of nearly identical films of different sources, each treated as one film")
    if unmerged := len(summary.near_duplicates) - merged:
        print_line(f"{unmerged:,} pairs of nearly identical films")
    if summary.duplicates or summary.near_duplicates:
        print_line("  (all are listed in dataset.json)")


def _show_refused(refused: "tuple[RefusedFile, ...]") -> None:
    """Print refused files by name; of many with the same reason, the first few and the number of the others."""
    if not refused:
        return
    print_line(f"{len(refused):,} refused (all are listed in dataset.json):")
    for reason, files in grouped(refused, lambda each: each.reason).items():
        shown = files if len(files) <= _MOST_REFUSED else files[:_FEW]
        for each in shown:
            print_line(f"  {each.source}:{each.name}: {reason}")
        if len(shown) < len(files):
            print_line(f"  and {len(files) - len(shown):,} more: {reason}")


def show_audit(audit: "Audit") -> None:
    """Print counts, baselines and shifts as tables, then the findings with names."""
    console = stdout()
    console.print(_counts_table(audit))
    if audit.shortcuts:
        console.print(_shortcuts_table(audit))
    if audit.shifts:
        console.print(_shifts_table(audit))
    for finding in audit.findings:
        _show_finding(finding)
    if not audit.findings:
        print_line("no findings")
    for what in audit.not_measured:
        print_line(f"not measured: {what}")
    print_line(audit.disclaimer)


def _counts_table(audit: "Audit") -> Table:
    table = Table("split", *map(escape, audit.classes), title=f"{audit.films:,} films (patients)")
    cells = {(row.split, row.label): f"{row.films:,} ({row.patients:,})" for row in audit.counts}
    for split in dict.fromkeys(row.split for row in audit.counts):
        table.add_row(split, *(cells.get((split, label), "-") for label in audit.classes))
    return table


def _shortcuts_table(audit: "Audit") -> Table:
    table = Table(
        "features", "task", "tested on", "accuracy (95 %)", "chance", title="classified without any detail of a lung"
    )
    for row in audit.shortcuts:
        table.add_row(row.features, escape(row.task), row.tested_on, _interval(row.accuracy), f"{row.chance:.3f}")
    return table


def _shifts_table(audit: "Audit") -> Table:
    table = Table("features", *map(escape, audit.classes), title="train against test: AUROC (95 %); 0.5 means no shift")
    areas = {(row.features, row.label): _interval(row.auroc) for row in audit.shifts}
    for features in dict.fromkeys(row.features for row in audit.shifts):
        table.add_row(features, *(areas.get((features, label), "-") for label in audit.classes))
    return table


def _show_finding(finding: "Finding") -> None:
    print_line(f"{finding.severity}: {finding.title}. {finding.meaning}")
    most = _FEW if finding.severity == "note" else _MOST_NAMES
    for name in finding.films[:most]:
        print_line(f"    {name}")
    if len(finding.films) > most:
        print_line(f"    and {len(finding.films) - most:,} more")


def _interval(figure: "Estimate") -> str:
    return f"{figure.value:.3f} ({figure.low:.3f}-{figure.high:.3f})"
