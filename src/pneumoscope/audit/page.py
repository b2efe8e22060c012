"""The audit as one self-contained page, with its pictures inside, without scripts or requests."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from pneumoscope.archive import Member
from pneumoscope.audit.document import Audit, Oddity, Shares, Shortcut, Spread
from pneumoscope.audit.features import FEATURES
from pneumoscope.audit.shortcuts import CLASSES_TASK
from pneumoscope.contract import InputRule
from pneumoscope.dataset.split import grouped
from pneumoscope.errors import ArchiveError, ImageError
from pneumoscope.imaging import Limits, Luma, encode, load_input

_SIDE = 160
# Limits of what the page shows; audit.json has everything.
_MAX_GROUPS, _MAX_ODD, _MAX_NAMES = 24, 48, 400


@dataclass(frozen=True)
class Pictures:
    """The sources of the page's pictures: films by name, and mean films by split and class."""

    members: Mapping[str, Member]
    means: Mapping[tuple[str, str], Luma]
    limits: Limits

    def film(self, name: str) -> str | None:
        """A small picture of a film as a data URI, or None if it cannot be read."""
        try:
            return _data_uri(load_input(self.members[name].read(), InputRule.squash(_SIDE), limits=self.limits)[0])
        except (ImageError, ArchiveError, OSError, KeyError):
            return None

    def mean(self, split: str, label: str) -> str:
        """The mean film of a class in a split as a data URI."""
        return _data_uri(self.means[split, label])


def draw_page(audit: Audit, pictures: Pictures) -> str:
    """The page as HTML text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    alike = grouped((*audit.identical, *audit.near), lambda each: each.crosses)
    return template.render(
        audit=audit,
        pictures=pictures,
        features=FEATURES,
        tasks=_tasks(audit),
        alike=[
            (title, alike.get(crosses, [])[:_MAX_GROUPS], len(alike.get(crosses, [])))
            for crosses, title in ((True, "In several splits"), (False, "Within one split"))
        ],
        odd=_odd(audit.odd),
        most_names=_MAX_NAMES,
        cells=list(pictures.means),
        spreads=grouped(audit.spreads, lambda row: row.quantity).items(),
        shares=grouped(audit.shares, lambda row: row.quantity).items(),
        span=_span,
        ordered=_ordered,
    )


def _tasks(audit: Audit) -> list[tuple[str, list[Shortcut]]]:
    """Baselines by task, with a title for each."""
    titles = {CLASSES_TASK: f"All {len(audit.classes)} classes"}
    tasks = grouped(audit.shortcuts, lambda each: each.task)
    return [(titles.get(name, f"{name.capitalize()} or not"), rows) for name, rows in tasks.items()]


def _odd(odd: Sequence[Oddity]) -> list[tuple[str, list[Oddity], int]]:
    """Odd films by kind: the kind, the first few films, and how many there are."""
    kinds = grouped(odd, lambda each: each.kind)
    return [(kind, rows[: max(4, _MAX_ODD // len(kinds))], len(rows)) for kind, rows in kinds.items()]


def _span(rows: Sequence[Spread]) -> tuple[float, float]:
    """The least value of a table's bars, and the width of their range."""
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    return low, (high - low) or 1.0


def _ordered(rows: Sequence[Shares]) -> list[str]:
    """Every value that occurs in any row, in order of its first occurrence."""
    return list(dict.fromkeys(value for row in rows for value in row.shares))


def _data_uri(luma: Luma) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(encode(luma, 'JPEG', quality=80)).decode('ascii')}"
