"""`pneumoscope data …`: make and audit data sets."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pneumoscope.cli.command import command
from pneumoscope.errors import UsageError

if TYPE_CHECKING:
    from pneumoscope.settings.data import Audit, Fetch, Phantom, Prepare

app = typer.Typer(
    help="Make and audit data sets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@command(app, "fetch", "data.Fetch")
def fetch_command(settings: "Fetch") -> None:
    """Download the published archive of chest films.

    The archive is Kermany, Zhang, Goldbaum 2018 (Mendeley Data rscbjbr9sj, CC BY 4.0). Run the same command
    again to resume an interrupted download. Size and SHA-256 are verified. Version 3 is mostly images of the eye:
    only its chest films are downloaded, each verified by its CRC-32.
    """
    from pneumoscope.archive.fetch import ExpectedFile, fetch_file, fetch_films
    from pneumoscope.archive.published_archives import PUBLISHED_ARCHIVES
    from pneumoscope.cli.show import make_listener

    published, listener = PUBLISHED_ARCHIVES[settings.version], make_listener(quiet=settings.quiet)
    if settings.full and published.films_folder is None:
        raise UsageError(f"--full is for version 3; version {settings.version} is always fetched whole.")
    # Range requests into the remote ZIP fetch the chest films alone; version 3 whole is 8.4 GB.
    films_only = published.films_folder is not None and not settings.full
    if settings.sha256 is not None and films_only:
        raise UsageError("--sha256 is the hash of the whole archive; with --version 3 it needs --full.")
    address = settings.url or published.url
    if films_only:
        path = settings.out / f"{Path(published.file).stem}-chest"
        count = fetch_films(published, path, url=address, listener=listener)
        outcome = "already there" if count is None else f"{count:,} chest films fetched and verified"
    else:
        path = settings.out / published.file
        size = published.size if settings.sha256 is None else None  # of a mirror's own file, only the hash is known
        wanted = ExpectedFile(url=address, sha256=(settings.sha256 or published.sha256).lower(), size=size)
        fetched = fetch_file(wanted, path, listener=listener)
        outcome = "fetched and verified" if fetched else "already there, and verified"
    if not settings.quiet:
        typer.echo(f"{path}: {outcome}; next: pneumoscope data prepare {path} --out DATASET", err=True)


@command(app, "prepare", "data.Prepare")
def prepare_command(settings: "Prepare") -> None:
    """Make a data set from archives or folders.

    Every image is checked, and {train,val,test}/{class}/ and manifest.csv are written. The class of a film is the
    name of its folder, or comes from --labels; the label files of published sets need no further options. A source's
    test part stays in the test split; its train and validation parts are joined, and validation is split off anew,
    by patient. Films of several sources are matched by their pixels, so that each is in the data set once. A film of
    a test part, and any other film of its patient, is never in train (except with --train-only). Refused inputs are
    listed and do not stop the command (unless --strict is given); if there were any, it exits with code 1.
    """
    from pneumoscope.cli.show import make_listener
    from pneumoscope.cli.show_data import show_prepared
    from pneumoscope.dataset import prepare

    out, config = settings.out, settings.config
    listener = make_listener(quiet=settings.quiet)
    summary = prepare(list(settings.sources), out, config, overwrite=settings.overwrite, listener=listener)
    show_prepared(summary)
    if not settings.quiet:
        after = f"evaluate {out} --bundle BUNDLE --out REPORT" if config.test_only else f"train --data {out} --out RUN"
        typer.echo(f"data set in {out}; next: pneumoscope {after}", err=True)
    if summary.refused:
        raise typer.Exit(1)


@command(app, "audit", "data.Audit")
def audit_command(settings: "Audit") -> None:
    """Report what in a data set can mislead a model.

    It looks for leaks, duplicates, odd files, shortcuts, and shifts between splits. Every file is read, also those in
    the split folders that the manifest does not list. A film or patient in several splits, a film with two labels,
    and a missing, damaged or changed file are errors; whatever else can mislead a model or its validation is a
    warning; other findings are notes.
    """
    from pneumoscope.audit import PAGE_FILE, SEVERITIES, audit
    from pneumoscope.cli.show import make_listener
    from pneumoscope.cli.show_data import show_audit

    out, listener = settings.out, make_listener(quiet=settings.quiet)
    result = audit(
        settings.subject,
        out,
        shortcuts=settings.shortcuts,
        overwrite=settings.overwrite,
        name_encoding=settings.name_encoding,
        listener=listener,
    )
    if settings.form == "json":
        typer.echo(result.model_dump_json(indent=2))
    else:
        show_audit(result)
    if not settings.quiet:
        typer.echo(
            f"pictures and all names: {out / PAGE_FILE}"
            if out
            else "pass --out DIR to write audit.json and audit.html",
            err=True,
        )
    worst = result.worst()
    if settings.fail_on != "never" and worst and SEVERITIES.index(worst) <= SEVERITIES.index(settings.fail_on):
        raise typer.Exit(1)


@command(app, "phantom", "data.Phantom")
def phantom_command(settings: "Phantom") -> None:
    """Draw synthetic chest radiographs.

    Their folders and names are those of the version 2 archive.
    """
    from pneumoscope.phantom import write_archive_folder

    write_archive_folder(settings.out, count=settings.count, seed=settings.seed, overwrite=settings.overwrite)
    typer.echo(
        f"{settings.count} phantoms in {settings.out}; next: pneumoscope data prepare {settings.out} --out DATASET"
    )
