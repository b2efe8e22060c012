"""What `pneumoscope aws` prints."""

import json
from pathlib import Path
from typing import Any

from pneumoscope.aws.client.invoke import Client, as_document, as_refusal
from pneumoscope.cli.image_files import encoded, find_films
from pneumoscope.cli.show import complain, print_line, show_table
from pneumoscope.engine import ImageFile
from pneumoscope.errors import AnswerError, BusyError, ImageError
from pneumoscope.imaging import DEFAULT_LIMITS

_MOST_BUSY = 3  # films in a row: then it is the endpoint


def show_answers(client: Client, paths: list[Path], form: str, *, quiet: bool) -> int:
    """Send films one by one and print what is said of each; how many were refused or not answered.

    Raises:
        UsageError: there is no film.
        BusyError: the endpoint was busy or out of reach for several films in a row.
    """
    refused, busy, header = 0, 0, form == "table"
    for path in find_films(paths):
        document, failure = _ask(client, encoded(path, DEFAULT_LIMITS), quiet=quiet)
        busy = busy + 1 if isinstance(failure, BusyError) else 0
        refused += document["status"] == "rejected"
        if form == "json":
            print(json.dumps(document, allow_nan=False), flush=True)
        elif failure is None:
            if header:
                print(f"{'status':<10}{'label':<30}{'probability':>12}{'call ms':>9}  image")
                header = False
            print(_row(document), flush=True)
        if busy == _MOST_BUSY:
            raise BusyError(f"endpoint {client.name} has answered none of {busy} films in a row; try again later.")
    return refused


def _ask(client: Client, film: ImageFile, *, quiet: bool) -> tuple[dict[str, Any], Exception | None]:
    """What is said of a film, and what went wrong with it alone. What is wrong with the endpoint is raised."""
    try:
        data = film.read()
        found = client.classify(data)
    except (ImageError, AnswerError, BusyError, OSError) as failure:
        complain(f"{film.name}: {failure}")
        return as_refusal(film.name, client, failure), failure
    if found.shrunk and not quiet:
        _note(film.name, len(data), client)
    return as_document(film.name, client, found), None


def show_made(found: list[dict[str, str]], form: str, region: str) -> None:
    """What there is, as a table or one JSON document."""
    if form == "json":
        print(json.dumps(found))
        return
    if not found:
        print_line(f"nothing that was made from here is in {region}.")
        return
    rows = ((each["kind"], each["name"], each["state"], each["made"]) for each in found)
    show_table(("what", "name", "state", "made (UTC)"), rows, title=region)


def _note(name: str, size: int, client: Client) -> None:
    """A word on a film that was not sent as it is."""
    side = client.contract.input.size if client.contract else 0
    sentence = f"has {size / 1e6:.1f} MB, over the {client.limit / 1e6:.1f} MB that {client.name} takes"
    complain(f"{name} {sentence}: sent as the {side}×{side} pixels that the model reads.", word="note")


def _row(document: dict[str, Any]) -> str:
    probabilities = document["probabilities"]
    best = f"{max(probabilities.values()):>12.3f}" if probabilities else f"{'-':>12}"
    tail = f"  [{'; '.join(document['reasons'])}]" if document["reasons"] else ""
    label = (document["label"] or "-")[:29]
    time = document["endpoint"]["milliseconds"]
    return f"{document['status']:<10}{label:<30}{best}{time:>9.1f}  {document['image']}{tail}"
