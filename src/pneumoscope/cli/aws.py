"""`pneumoscope aws …`: the cloud half."""

import sys
from typing import TYPE_CHECKING

import typer

from pneumoscope.cli.command import command
from pneumoscope.errors import UsageError

if TYPE_CHECKING:
    from pneumoscope.aws.session import Cloud
    from pneumoscope.settings.aws import Deploy, Invoke, PutModel, Status, Teardown, Train, Upload

app = typer.Typer(
    help="Films to S3, a training job, an endpoint, and back to nothing (docs/how-to/aws.md).",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@command(app, "upload", "aws.Upload")
def upload_command(settings: "Upload") -> None:
    """Put a data set into S3, encrypted. Sends only what is not there yet, so it may be broken off and repeated.

    The bucket must be in the region of the work to come. The manifest is sent last.
    """
    from pneumoscope.aws.client.upload import upload
    from pneumoscope.cli.show import make_listener
    from pneumoscope.dataset import load_dataset

    target, found, listener = settings.place, load_dataset(settings.dataset), make_listener(quiet=settings.quiet)
    cloud, public = _cloud(settings.region), settings.allow_public
    done = upload(cloud, found, target, kms_key=settings.kms_key, allow_public=public, listener=listener)
    typer.echo(f"{target}: {done.sent:,} files sent ({done.sent_bytes / 1e6:,.1f} MB), {done.there:,} there already.")
    listener.say(f"next: pneumoscope aws train --data {target} --out s3://{target.bucket}/runs --role ROLE")


@command(app, "train", "aws.Train")
def train_command(settings: "Train") -> None:
    """Start a SageMaker training job that runs `pneumoscope train`; it leaves a bundle as model.tar.gz.

    The recipe is checked here, before anything costs. Ctrl-C while waiting leaves the job running.
    """
    from pneumoscope.aws.client.train import follow, start
    from pneumoscope.cli.show import make_listener

    cloud, name, listener = _cloud(settings.region), settings.name, make_listener(quiet=settings.quiet)
    start(cloud, settings)
    typer.echo(f"training job {name} started in {cloud.region}.")
    if not settings.wait:
        typer.echo("next: pneumoscope aws status", err=True)
        return
    try:
        job = follow(cloud, name, listener=listener)
    except KeyboardInterrupt:
        typer.echo(f"no longer followed; training job {name} goes on, see `pneumoscope aws status`.", err=True)
        raise
    for each in job.get("FinalMetricDataList", []):
        typer.echo(f"{each['MetricName']}: {each['Value']:.4f}")
    model = job["ModelArtifacts"]["S3ModelArtifacts"]
    typer.echo(f"model: {model}")
    listener.say(f"next: pneumoscope aws deploy {model} --name NAME --to S3://… --image IMAGE")


@command(app, "put-model", "aws.PutModel")
def put_model_command(settings: "PutModel") -> None:
    """Verify a bundle, and put its model.tar.gz and contract.json into S3, where stacks read them.

    A new model takes a new folder, for nothing notices a file that is overwritten.
    """
    from pneumoscope.aws.client.model_upload import put_model
    from pneumoscope.cli.show import make_listener

    put_model(_cloud(settings.region), settings, listener=make_listener(quiet=settings.quiet))
    typer.echo(f"model in {settings.folder}.")


@command(app, "deploy", "aws.Deploy")
def deploy_command(settings: "Deploy") -> None:
    """Make a SageMaker endpoint from a bundle, after its golden cases came out right here, or update one.

    It is a stack of CloudFormation, pneumoscope-NAME, which `aws status` lists and `aws teardown` deletes.
    """
    from pneumoscope.aws.client.deploy import deploy, name_of
    from pneumoscope.cli.show import make_listener

    name, listener = name_of(settings), make_listener(quiet=settings.quiet)
    try:
        deploy(_cloud(settings.region), settings, listener=listener)
    except KeyboardInterrupt:
        typer.echo(f"endpoint {name} may be made all the same; `pneumoscope aws teardown {name}` removes it.", err=True)
        raise
    if not settings.wait:
        typer.echo(f"endpoint {name} is being made; see `pneumoscope aws status`.")
        return
    typer.echo(f"endpoint {name} is in service. It costs until `pneumoscope aws teardown {name}`.")
    listener.say(f"next: pneumoscope aws invoke {name} FILM")


@command(app, "invoke", "aws.Invoke")
def invoke_command(settings: "Invoke") -> None:
    """Send films to an endpoint, as they are, and print its decisions and what each call took.

    A film over the endpoint's limit is sent as the model reads it, which changes no probability. With
    AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:8080 and `serve --bundle BUNDLE --as-endpoint NAME`
    no account is needed.
    Goes on past bad films; exit code 1 if there were any.
    """
    from pneumoscope.aws.client.invoke import Client
    from pneumoscope.aws.session import Cloud, stand_in
    from pneumoscope.cli.show_aws import show_answers
    from pneumoscope.contract import DISCLAIMER

    cloud = Cloud(region=settings.region or "us-east-1", anonymous=True) if stand_in() else _cloud(settings.region)
    client = Client(cloud, settings.endpoint, variant=settings.variant, bundle=settings.bundle)
    refused = show_answers(client, list(settings.images), settings.form, quiet=settings.quiet)
    if settings.form == "table":
        typer.echo(DISCLAIMER)
    if refused:
        raise typer.Exit(1)


@command(app, "status", "aws.Status")
def status_command(settings: "Status") -> None:
    """List the endpoints, stacks and training jobs of this region that were made from here."""
    from pneumoscope.aws.client.inventory import status
    from pneumoscope.cli.show_aws import show_made

    cloud = _cloud(settings.region)
    show_made(status(cloud), settings.form, cloud.region)


@command(app, "teardown", "aws.Teardown")
def teardown_command(settings: "Teardown") -> None:
    """Delete an endpoint's stack, and its models' files in S3, after listing them.

    Of the files only those that bear the tag that `aws deploy` gave them. Data sets, training jobs' results,
    films and answers of an asynchronous endpoint, and what was captured stay.
    """
    from pneumoscope.aws.client.inventory import belongings, captured

    cloud, name = _cloud(settings.region), settings.name
    found = list(belongings(cloud, name, keep_model=settings.keep_model))
    films = captured(cloud, name)
    if not found:
        typer.echo(f"nothing named {name} that was made from here is in {cloud.region}.")
        return
    if not settings.yes:
        for each in found:
            typer.echo(f"to be removed: {each.name}", err=True)
        if not sys.stdin.isatty():
            raise UsageError("teardown asks before it removes; pass --yes where nobody can answer.")
        typer.confirm(f"Remove these {len(found)} in {cloud.region}?", abort=True, err=True)
    for each in found:
        each.remove()
        typer.echo(f"removed: {each.name}")
    if films is not None:
        typer.echo(f"note: the films and answers that were captured stay in {films}, until you delete them.", err=True)


def _cloud(region: str | None) -> "Cloud":
    from pneumoscope.aws.session import Cloud

    return Cloud(region=region)
