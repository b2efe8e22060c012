"""What `pneumoscope aws` prints."""

import json
from pathlib import Path
from typing import Any

from pneumoscope.aws.client.invoke import Client, decision_document, failure_document
from pneumoscope.cli.image_files import find_image_files, lazy_image_file
from pneumoscope.cli.show import print_line, print_problem, show_table
from pneumoscope.engine import ImageFile
from pneumoscope.errors import BusyError, ImageError, InferenceError
from pneumoscope.imaging import DEFAULT_LIMITS

_MOST_BUSY = 3  # films in a row; after that the endpoint is at fault, not the film


def show_decisions(client: Client, paths: list[Path], form: str, *, quiet: bool) -> int:
    """Send image files one by one and print the decisions. Return how many were rejected or got no response.

    Raises:
        UsageError: there is no image file.
        BusyError: the endpoint was busy or out of reach for several films in a row.
    """
    refused, busy, header = 0, 0, form == "table"
    for path in find_image_files(paths):
        document, failure = _classify(client, lazy_image_file(path, DEFAULT_LIMITS), quiet=quiet)
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


def _classify(client: Client, film: ImageFile, *, quiet: bool) -> tuple[dict[str, Any], Exception | None]:
    """The decision document, and the failure if the film got no decision. Refusals by AWS are raised."""
    try:
        data = film.read()
        found = client.classify(data)
    except (ImageError, InferenceError, BusyError, OSError) as failure:
        print_problem(f"{film.name}: {failure}")
        return failure_document(film.name, client, failure), failure
    if found.shrunk and not quiet:
        _note_shrunk(film.name, len(data), client)
    return decision_document(film.name, client, found), None


def show_resources(found: list[dict[str, str]], form: str, region: str) -> None:
    """Print the resources of `aws status`, as a table or one JSON document."""
    if form == "json":
        print(json.dumps(found))
        return
    if not found:
        print_line(f"Pneumoscope has made nothing in {region}.")
        return
    rows = ((each["kind"], each["name"], each["state"], each["made"]) for each in found)
    show_table(("kind", "name", "state", "made (UTC)"), rows, title=region)


def _note_shrunk(name: str, size: int, client: Client) -> None:
    """Print a note on a film that was too large to be sent as it is."""
    side = client.contract.input.size if client.contract else 0
    sentence = f"has {size / 1e6:.1f} MB, over the {client.limit / 1e6:.1f} MB that {client.name} accepts"
    print_problem(f"{name} {sentence}: sent as the {side}×{side} pixels that the model reads.", level="note")


def _row(document: dict[str, Any]) -> str:
    probabilities = document["probabilities"]
    best = f"{max(probabilities.values()):>12.3f}" if probabilities else f"{'-':>12}"
    tail = f"  [{' '.join(document['reasons'])}]" if document["reasons"] else ""
    label = (document["label"] or "-")[:29]
    time = document["endpoint"]["milliseconds"]
    return f"{document['status']:<10}{label:<30}{best}{time:>9.1f}  {document['image']}{tail}"
