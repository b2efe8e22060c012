"""Write the architecture's pictures and the list of source files; a test keeps them equal to the code.

python scripts/write_architecture_docs.py
"""

import ast
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "src" / "pneumoscope"
DOCS = REPOSITORY / "docs"
HEAD = """# Source files

Written by `make docs` from the first line of each module's docstring. How the package's parts (*rooms*) fit together:
[Architecture](architecture.md).
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One arrow of the data flow: a command of a room turns one kind of files into another."""

    source: str
    command: str
    room: str
    target: str


#: What flows where. A test compares commands and rooms with the command line and its imports.
FLOW = (
    Step(source="archive", command="data prepare", room="dataset", target="data set"),
    Step(source="data set", command="data audit", room="audit", target="audit"),
    Step(source="data set", command="train", room="training", target="run"),
    Step(source="data set", command="cross-validate", room="training", target="evidence"),
    Step(source="run", command="export", room="export", target="bundle"),
    Step(source="evidence", command="export", room="export", target="bundle"),
    Step(source="bundle", command="evaluate", room="report", target="report"),
    Step(source="bundle", command="predict", room="engine", target="decisions"),
    Step(source="bundle", command="score", room="score", target="Parquet parts"),
    Step(source="bundle", command="serve", room="server", target="page and HTTP API"),
    Step(source="bundle", command="aws deploy", room="aws", target="endpoint on AWS"),
)
#: Where each kind of files stands in the picture: column and row.
_PLACES = {
    "archive": (0.0, 0.5),
    "data set": (1.0, 0.5),
    "audit": (2.0, -0.5),
    "run": (2.0, 0.5),
    "evidence": (2.0, 1.5),
    "bundle": (3.0, 0.5),
    "report": (4.0, -1.0),
    "decisions": (4.0, -0.25),
    "Parquet parts": (4.0, 0.5),
    "page and HTTP API": (4.0, 1.25),
    "endpoint on AWS": (4.0, 2.0),
}
_STYLE = """<style>
  text { font-family: sans-serif; font-size: 14px; fill: #1a1a1a; text-anchor: middle; }
  .small { font-size: 12px; fill: #444; }
  .room { font-style: italic; }
  .left { text-anchor: start; }
  .box { fill: #eef3fb; stroke: #33568a; }
  .layer { fill: #fafafa; stroke: #ccc; }
  .line { stroke: #33568a; stroke-width: 1.5; fill: none; }
</style>"""


def layers() -> list[list[str]]:
    """The layers of pyproject.toml's first import-linter contract, top first; rooms of one layer side by side."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    return [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]


def imports() -> dict[str, set[str]]:
    """Which rooms each room really imports, wherever in its files the import stands."""
    graph = grimp.build_graph("pneumoscope", cache_dir=None)
    found: dict[str, set[str]] = {room: set() for layer in layers() for room in layer}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            source, target = (name.split(".")[1] if "." in name else "" for name in (module, imported))
            if source in found and target in found and source != target:
                found[source].add(target)
    return found


def summary(module: Path) -> str:
    """The first line of a module's docstring."""
    document = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return document.partition("\n")[0].replace("|", "\\|")


def render_files() -> str:
    """The page of source files: one table per room, top layer first, then what stands beside the package."""
    imported, order = imports(), [room for layer in layers() for room in layer]
    sections = [HEAD]
    for room in order:
        folder, module = PACKAGE / room, PACKAGE / f"{room}.py"
        rooms = ", ".join(f"`{each}`" for each in order if each in imported[room]) or "no other room"
        files = sorted(folder.rglob("*.py")) if folder.is_dir() else [module]
        title = folder / "__init__.py" if folder.is_dir() else module
        sections += [f"## `{room}`\n\n{summary(title)}\n\nImports: {rooms}.\n"]
        if others := [file for file in files if file != title]:
            sections += [_table(folder, others)]
    for folder, what in (
        (REPOSITORY / "benchmarks", "Scripts that measure; each makes its tables in one run."),
        (REPOSITORY / "scripts", "Scripts that make the release and the generated pages."),
    ):
        sections += [f"## `{folder.name}/`\n\n{what}\n", _table(folder, sorted(folder.glob("*.py")))]
    return "\n".join(sections)


def _table(folder: Path, files: Iterable[Path]) -> str:
    rows = [f"| `{file.relative_to(folder).as_posix()}` | {summary(file)} |" for file in files]
    return "\n".join(["| file | what |", "|---|---|", *rows, ""])


def draw_rooms() -> str:
    """The rooms by layer as an SVG picture: each may import those of the layers below it."""
    width, height, left = 760, 44, 20
    parts = [f'<text class="small left" x="{left}" y="20">A room may import the rooms of every layer below it.</text>']
    y = 34
    for layer in layers():
        parts.append(f'<rect class="layer" x="{left}" y="{y}" width="{width}" height="{height}" rx="4"/>')
        step = width / len(layer)
        for index, room in enumerate(layer):
            x = left + step * index + step / 2
            parts.append(f'<rect class="box" x="{x - 74:g}" y="{y + 7}" width="148" height="30" rx="4"/>')
            parts.append(f'<text x="{x:g}" y="{y + 27}">{escape(room)}</text>')
        y += height + 8
    return _svg(width + 2 * left, y + 8, "The rooms of the package, layer by layer", parts)


def draw_flow() -> str:
    """The data flow as an SVG picture: kinds of files as boxes, commands and their rooms on the arrows."""
    column, row, wide, high, left, top = 204, 96, 88, 34, 58, 130
    at = {name: (left + column * x, top + row * y) for name, (x, y) in _PLACES.items()}
    tip = '<path d="M0 0 L8 4 L0 8 z" fill="#33568a"/>'
    size = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"'
    parts = [f'<defs><marker id="tip" {size}>{tip}</marker></defs>']
    for step in FLOW:
        (x1, y1), (x2, y2) = at[step.source], at[step.target]
        start, end = x1 + wide / 2, x2 - (70 if x2 > 860 else wide / 2)
        middle, height = start + (end - start) * 0.55, y1 + (y2 - y1) * 0.55  # nearer the tip, where arrows part
        parts.append(f'<path class="line" marker-end="url(#tip)" d="M{start:g} {y1:g} L{end:g} {y2:g}"/>')
        parts.append(_label(middle, height, step))
    for name, (x, y) in at.items():
        half = 70 if x > 860 else wide / 2
        parts.append(
            f'<rect class="box" x="{x - half:g}" y="{y - high / 2:g}" width="{2 * half:g}" height="{high}" rx="4"/>'
        )
        parts.append(f'<text x="{x:g}" y="{y + 5:g}">{escape(name)}</text>')
    return _svg(960, 350, "From an archive to decisions: kinds of files, and the commands between them", parts)


def _label(x: float, y: float, step: Step) -> str:
    half = 3.4 * max(len(step.command), len(step.room))
    return (
        f'<rect x="{x - half:g}" y="{y - 18:g}" width="{2 * half:g}" height="34" fill="#fff" opacity="0.85"/>'
        f'<text class="small" x="{x:g}" y="{y - 5:g}">{escape(step.command)}</text>'
        f'<text class="small room" x="{x:g}" y="{y + 11:g}">{escape(step.room)}</text>'
    )


def _svg(width: int, height: int, title: str, parts: list[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">\n'
        f"<title>{title}</title>\n{_STYLE}\n"
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n{body}\n</svg>\n'
    )


#: Each document, and what writes it.
DOCUMENTS = {
    DOCS / "concepts" / "source-files.md": render_files,
    DOCS / "images" / "rooms.svg": draw_rooms,
    DOCS / "images" / "flow.svg": draw_flow,
}

if __name__ == "__main__":
    for path, write in DOCUMENTS.items():
        path.write_text(write(), encoding="utf-8")
