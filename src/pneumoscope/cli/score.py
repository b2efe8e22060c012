"""`pneumoscope score`."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pneumoscope.cli.bundle_choice import choose_bundle, refuse_bundles
from pneumoscope.cli.command import command

if TYPE_CHECKING:
    from pneumoscope.progress import Listener
    from pneumoscope.score.archive_scoring import CrewMaker, Resources
    from pneumoscope.score.destination import Destination
    from pneumoscope.score.listing import Source
    from pneumoscope.settings.score import Score


def register(app: typer.Typer) -> None:
    """Add the command to the command tree."""
    command(app, "score", "score.Score")(score_command)


def score_command(settings: "Score") -> None:
    """Score whole archives into Parquet files.

    The films of all sources are cut into shards of about 2,000. Worker processes score them, on this machine or on a
    Ray cluster, and each shard becomes one part in --out, whole or not at all. Run the same command again after an
    interruption: it goes on with the parts that are missing. A damaged film is a row with its reason, and does not
    change the exit code. For research use only; not a medical device.
    """
    import pyarrow  # noqa: F401, ICN001 (a missing extra must end the command before the films are listed)

    from pneumoscope.cli.show import make_listener
    from pneumoscope.cli.show_score import show_summary
    from pneumoscope.contract import load_contract
    from pneumoscope.score.archive_scoring import score_archives
    from pneumoscope.score.worker import Options

    refuse_bundles(Path(each) for each in settings.sources)
    choice = choose_bundle(settings.bundle)
    contract = load_contract(choice.folder)
    sources, destination = [_source(each, settings) for each in settings.sources], _destination(settings)
    listener = make_listener(quiet=settings.quiet)
    listener.say(f"model: {choice.describe(contract)}")
    options = Options(**{name: getattr(settings, name) for name in Options.__dataclass_fields__})
    make_crew, resources = _crew(settings, listener)
    with redirect_stdout(sys.stderr):  # Ray prints messages about lost nodes, and stdout is for the summary
        summary = score_archives(
            sources,
            destination,
            choice.folder,
            options,
            make_crew,
            resources,
            films_per_shard=settings.shard_films,
            remove_others=settings.remove_others,
            listener=listener,
        )
    show_summary(summary, destination.address, settings.form)


def _source(address: str, settings: "Score") -> "Source":
    from pneumoscope.imaging import Limits
    from pneumoscope.score.listing import find_source
    from pneumoscope.settings.aws_names import S3, parse_location

    limits = Limits(max_pixels=settings.max_pixels)
    if address.startswith(S3):
        from pneumoscope.aws.scoring import S3Films

        return S3Films(location=parse_location(address), region=settings.region, limits=limits)
    return find_source(address, limits, name_encoding=settings.name_encoding)


def _destination(settings: "Score") -> "Destination":
    from pneumoscope.settings.aws_names import S3, parse_location

    if settings.out.startswith(S3):
        from pneumoscope.aws.scoring import S3Destination

        return S3Destination(location=parse_location(settings.out), region=settings.region, kms_key=settings.kms_key)
    from pneumoscope.score.destination import FolderDestination

    return FolderDestination(folder=Path(settings.out).absolute())


def _crew(settings: "Score", listener: "Listener") -> "tuple[CrewMaker, Resources]":
    """What makes the workers, and how many cores there are for them."""
    from pneumoscope.parallel import available_cores
    from pneumoscope.score.archive_scoring import Resources
    from pneumoscope.score.processes import ProcessCrew

    if settings.ray is None:
        return ProcessCrew, Resources(cores=settings.cores or available_cores(), threads=settings.threads)
    from pneumoscope.score.on_ray import RayCrew, join

    cores = join(settings.ray, cores=settings.cores, threads=settings.threads, listener=listener)
    return RayCrew, Resources(cores=cores, threads=settings.threads)
