"""`pneumoscope data …`: make data sets."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pneumoscope.errors import UsageError

app = typer.Typer(
    help="Make data sets from archives, folders and phantoms.", no_args_is_help=True, rich_markup_mode=None
)


class Form(StrEnum):
    """What a command prints."""

    table = "table"
    json = "json"


class Folder(StrEnum):
    """Which folder of a path names the class."""

    innermost = "innermost"
    outermost = "outermost"


class FailOn(StrEnum):
    """From which severity on a finding is a failure."""

    error = "error"
    warning = "warning"
    never = "never"


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what lies at --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no talk.")]


@app.command("fetch")
def fetch_command(
    version: Annotated[int, typer.Option(min=2, max=3, help="Version of the published archive: 2 or 3.")],
    out: Annotated[Path, typer.Option(help="The folder to fetch into.")],
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Version 3: fetch the whole 8.4 GB, not the chest films alone.")
    ] = False,
    url: Annotated[str | None, typer.Option(help="A mirror's address instead of the publisher's.")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="SHA-256 of a mirror's file, if it is not the published one.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fetch a published archive, resumable and verified.

    It is that of Kermany, Zhang, Goldbaum 2018 (Mendeley Data rscbjbr9sj, CC BY 4.0). A broken or
    killed fetch goes on where it was when the same command is run again. Size and SHA-256 are
    verified. Of version 3, which is mostly of the eye, the chest films alone are fetched, each checked
    by its CRC-32.
    """
    from pneumoscope.archive.fetch import Wanted, fetch_file, fetch_films
    from pneumoscope.archive.published import PUBLISHED
    from pneumoscope.cli.show import make_listener

    published = PUBLISHED[version]
    if full and published.films_folder is None:
        raise UsageError(f"--full is for version 3; version {version} is always fetched whole.")
    films_only = published.films_folder is not None and not full
    if sha256 is not None and films_only:
        raise UsageError("--sha256 is of the whole file; with --version 3 it needs --full.")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"--sha256 {sha256!r} is not a SHA-256; give its 64 hexadecimal digits.")
    listener = make_listener(quiet=quiet)
    address = url or published.url
    if films_only:
        path = out / f"{Path(published.file).stem}-chest"
        count = fetch_films(published, path, url=address, listener=listener)
        told = "already there" if count is None else f"{count:,} chest films fetched, each checked"
    else:
        path = out / published.file
        size = published.size if sha256 is None else None
        wanted = Wanted(url=address, sha256=(sha256 or published.sha256).lower(), size=size)
        told = "fetched and verified" if fetch_file(wanted, path, listener=listener) else "already there, and verified"
    if not quiet:
        typer.echo(f"{path}: {told}; next: pneumoscope data prepare {path} --out DATASET", err=True)


@app.command("prepare")
def prepare_command(
    sources: Annotated[
        list[Path],
        typer.Argument(exists=True, help="ZIP archives as downloaded, or folders with one folder of images a class."),
    ],
    out: Annotated[Path, typer.Option(help="The data set to make.")],
    *,
    val_fraction: Annotated[float, typer.Option(help="Share of the train films cut as validation, by patient.")] = 0.1,
    test_fraction: Annotated[
        float, typer.Option(help="Share cut as test, by patient, if no source has a test part.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the cuts.")] = 0,
    patient_pattern: Annotated[
        str | None, typer.Option(help=r"Regular expression that finds the patient in a path, e.g. 'p(\d+)_'.")
    ] = None,
    ignore_patient_ids: Annotated[
        bool, typer.Option("--ignore-patient-ids", help="Do not tell patients by the Patient IDs of DICOMs.")
    ] = False,
    class_folder: Annotated[
        Folder | None,
        typer.Option(help="Which folder names the class where folders lie in folders: innermost if not ambiguous."),
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Classes reported together, e.g. pneumonia=bacteria,virus. Repeatable.")
    ] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse images with more pixels.")] = 100_000_000,
    train_only: Annotated[
        bool, typer.Option("--train-only", help="Make every film a train film, for a final model; nothing validates.")
    ] = False,
    test_only: Annotated[
        bool, typer.Option("--test-only", help="Make every film a test film, to evaluate a trained model on.")
    ] = False,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Keep one of the films of a source that have equal pixels.")
    ] = False,
    keep_conflicts: Annotated[
        bool, typer.Option("--keep-conflicts", help="Keep films whose pixels carry several labels.")
    ] = False,
    merge_near: Annotated[
        bool, typer.Option("--merge-near", help="Take nearly identical films of two sources as one film.")
    ] = False,
    stress: Annotated[
        bool, typer.Option("--stress", help="Also write the stress split: validation, stored and framed anew.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Make nothing if any input is refused.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Read sources, check every image, and write {train,val,test}/{class}/ and manifest.csv.

    A source's test part stays test; train and validation parts are joined and validation is cut anew
    by patient. Films of several sources are matched by their pixels, so that each enters once, and
    none of a test part, nor of its patients, is ever in train. Exit code 1 if any input was refused
    (the data set is there all the same, unless --strict).
    """
    from pydantic import ValidationError

    from pneumoscope.cli.show import make_listener
    from pneumoscope.cli.show_data import show_prepared
    from pneumoscope.dataset import PrepareConfig, prepare
    from pneumoscope.documents import first_problem

    try:
        config = PrepareConfig(
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=seed,
            patient_pattern=patient_pattern,
            dicom_patients=not ignore_patient_ids,
            class_folder=None if class_folder is None else class_folder.value,
            groups=_groups(group),
            max_pixels=max_pixels,
            test_only=test_only,
            train_only=train_only,
            drop_duplicates=drop_duplicates,
            keep_conflicts=keep_conflicts,
            merge_near=merge_near,
            stress=stress,
            strict=strict,
        )
    except ValidationError as failure:
        raise UsageError(f"{first_problem(failure)}.") from failure
    summary = prepare(sources, out, config, overwrite=overwrite, listener=make_listener(quiet=quiet))
    show_prepared(summary)
    if not quiet:
        after = f"evaluate {out} --bundle BUNDLE --out REPORT" if test_only else f"train --data {out} --out RUN"
        typer.echo(f"data set in {out}; next: pneumoscope {after}", err=True)
    if summary.refused:
        raise typer.Exit(1)


@app.command("audit")
def audit_command(
    subject: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET", exists=True, help="A prepared data set; or an archive or folder as published."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="A folder to make, with audit.json and audit.html.")] = None,
    *,
    form: Annotated[Form, typer.Option("--format", help="What is printed.")] = Form.table,
    fail_on: Annotated[
        FailOn, typer.Option(help="Exit with 1 if there is a finding of this severity or a graver one.")
    ] = FailOn.never,
    shortcuts: Annotated[
        bool, typer.Option("--shortcuts/--no-shortcuts", help="Also measure shortcuts and shifts: most of the time.")
    ] = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Say what the data give away: leaks, duplicates, odd files, shortcuts, shifts between splits.

    Every file is read, also those in the split folders that the manifest does not name. An error is
    a film or a patient in several splits, a film under two labels, or a file that is missing, damaged
    or changed; a warning is what misleads a model or its validation.
    """
    from pneumoscope.audit import PAGE_FILE, SEVERITIES, audit
    from pneumoscope.cli.show import make_listener
    from pneumoscope.cli.show_data import show_audit

    found = audit(subject, out, shortcuts=shortcuts, overwrite=overwrite, listener=make_listener(quiet=quiet))
    if form is Form.json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        show_audit(found)
    if not quiet:
        typer.echo(
            f"pictures and all names: {out / PAGE_FILE}" if out else "pass --out DIR for audit.json and audit.html",
            err=True,
        )
    worst = found.worst()
    if fail_on is not FailOn.never and worst and SEVERITIES.index(worst) <= SEVERITIES.index(fail_on.value):
        raise typer.Exit(1)


@app.command("phantom")
def phantom_command(
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    *,
    count: Annotated[int, typer.Option(help="How many films; the classes are balanced.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Selects the population.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw synthetic chest radiographs, laid out and named like the version 2 archive."""
    from pneumoscope.phantom import write_archive_folder

    write_archive_folder(out, count=count, seed=seed, overwrite=overwrite)
    typer.echo(f"{count} phantoms in {out}; next: pneumoscope data prepare {out} --out DATASET")


def _groups(options: list[str] | None) -> dict[str, tuple[str, ...]] | None:
    """`["g=a,b"]` → `{"g": ("a", "b")}`."""
    if not options:
        return None
    groups = {}
    for option in options:
        name, separator, members = option.partition("=")
        if not separator or not name or not members:
            raise UsageError(f"--group {option!r} is not of the form NAME=CLASS,CLASS.")
        groups[name] = tuple(members.split(","))
    return groups
