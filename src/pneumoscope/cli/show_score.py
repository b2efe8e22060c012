"""What `score` prints at its end: the summary as a table, or as the document."""

from typing import TYPE_CHECKING

from pneumoscope.cli.show import print_line, show_signs, show_table

if TYPE_CHECKING:
    from pneumoscope.report import Figure
    from pneumoscope.score.summary import Summary

_MOST_REASONS = 8


def show_summary(summary: "Summary", place: str, form: str) -> None:
    """Print the summary of scored films, as `table` or `json`."""
    if form == "json":
        print(summary.model_dump_json(indent=2))
        return
    shards = summary.shards
    rows = [(name, f"{summary.statuses.get(name, 0):,}", _with_range(rate)) for name, rate in summary.rates.items()]
    show_table(
        ("status", "films", "share (95 % interval)"), rows, title=f"{summary.films:,} films", title_justify="left"
    )
    if summary.unread:
        print_line(f"files from which no image could be read: {summary.unread:,}.")
    reasons = list(summary.reasons.items())
    shown = ", ".join(f"{code} {count:,}" for code, count in reasons[:_MOST_REASONS])
    if reasons:
        print_line(f"reasons: {shown}{', …' if len(reasons) > _MOST_REASONS else ''}")
    show_signs(summary.signs, title=f"compared with the reference: {summary.reference}")
    print_line(summary.verdict)
    tries = shards.again_after_loss + shards.again_as_slow
    again = f"; {tries:,} tries were repeated" if tries else ""
    print_line(f"parts: {shards.total:,} in {place}, {shards.there:,} of them from earlier runs{again}.")
    if summary.workers:
        print_line(
            f"speed: {summary.films_per_second:,.1f} films per second in {summary.seconds:,.0f} s; "
            f"workers: {summary.workers}, threads per worker: {summary.threads}."
        )
    print_line(summary.intended_use)


def _with_range(figure: "Figure") -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return "undefined"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
