"""What `pneumoscope aws` prints."""

import json
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from pneumoscope.aws.client.invoke import Client, as_document, as_refusal
from pneumoscope.cli.films import list_films, refuse_none
from pneumoscope.cli.show import complain, print_line, stdout
from pneumoscope.errors import ImageError
from pneumoscope.imaging import DEFAULT_LIMITS


def show_answers(client: Client, paths: list[Path], form: str, *, quiet: bool) -> int:
    """Send films one by one and print what is said of each; how many were refused.

    Raises:
        UsageError: there is no film.
    """
    refused, header, empty = 0, form == "table", True
    for _, film in list_films(paths, DEFAULT_LIMITS):
        empty = False
        try:
            data = film.read()
            found = client.classify(data)
        except (ImageError, OSError) as failure:
            complain(f"{film.name}: {failure}")
            if form == "json":
                print(json.dumps(as_refusal(film.name, client, failure)), flush=True)
            refused += 1
            continue
        if found.shrunk and not quiet:
            _note(film.name, len(data), client)
        document = as_document(film.name, client, found)
        if header:
            print(f"{'status':<10}{'label':<30}{'probability':>12}{'call ms':>9}  image")
            header = False
        print(json.dumps(document, allow_nan=False) if form == "json" else _row(document), flush=True)
        refused += document["status"] == "rejected"
    if empty:
        refuse_none(paths)
    return refused


def show_made(found: list[dict[str, str]], form: str, region: str) -> None:
    """What there is, as a table or one JSON document."""
    if form == "json":
        print(json.dumps(found))
        return
    if not found:
        print_line(f"nothing that was made from here is in {region}.")
        return
    table = Table("what", "name", "state", "made (UTC)", title=region)
    for each in found:
        table.add_row(each["kind"], escape(each["name"]), each["state"], each["made"])
    stdout().print(table)


def _note(name: str, size: int, client: Client) -> None:
    """A word on a film that was not sent as it is."""
    side = client.rule.size if client.rule else 0
    sentence = f"has {size / 1e6:.1f} MB, over the {client.limit / 1e6:.1f} MB that {client.name} takes"
    complain(f"{name} {sentence}: sent as the {side}×{side} pixels that the model reads.", word="note")


def _row(document: dict[str, Any]) -> str:
    probabilities = document["probabilities"]
    best = f"{max(probabilities.values()):>12.3f}" if probabilities else f"{'-':>12}"
    tail = f"  [{'; '.join(document['reasons'])}]" if document["reasons"] else ""
    label = (document["label"] or "-")[:29]
    time = document["endpoint"]["milliseconds"]
    return f"{document['status']:<10}{label:<30}{best}{time:>9.1f}  {document['image']}{tail}"
