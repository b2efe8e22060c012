"""`pneumoscope aws …`: data, training, endpoints and batches on AWS."""

import sys
from typing import TYPE_CHECKING

import typer

from pneumoscope.cli.command import command
from pneumoscope.errors import UsageError

if TYPE_CHECKING:
    from pneumoscope.aws.session import Cloud
    from pneumoscope.settings.aws import Deploy, Invoke, PutModel, Score, Status, Teardown, Train, Upload

app = typer.Typer(
    help="Train and deploy on AWS (docs/how-to/aws.md).",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@command(app, "upload", "aws.Upload")
def upload_command(settings: "Upload") -> None:
    """Upload a data set to S3, encrypted.

    Only files that are not there yet are sent, so an interrupted upload can be repeated; the manifest goes last.
    The bucket must be in the region where training will run.
    """
    from pneumoscope.aws.client.upload import upload
    from pneumoscope.cli.show import make_listener
    from pneumoscope.dataset import load_dataset

    target, dataset, listener = settings.place, load_dataset(settings.dataset), make_listener(quiet=settings.quiet)
    cloud, public = _cloud(settings.region), settings.allow_public
    result = upload(cloud, dataset, target, kms_key=settings.kms_key, allow_public=public, listener=listener)
    typer.echo(
        f"{target}: {result.sent:,} files sent ({result.sent_bytes / 1e6:,.1f} MB), {result.there:,} already there."
    )
    listener.say(f"next: pneumoscope aws train --data {target} --out s3://{target.bucket}/runs --role ROLE")


@command(app, "train", "aws.Train")
def train_command(settings: "Train") -> None:
    """Start a SageMaker training job.

    It runs `pneumoscope train` and stores a bundle as model.tar.gz. The recipe is checked here, before anything costs
    money. Ctrl-C during --wait leaves the job running.
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
        typer.echo(f"stopped following; training job {name} still runs, see `pneumoscope aws status`.", err=True)
        raise
    for each in job.get("FinalMetricDataList", []):
        typer.echo(f"{each['MetricName']}: {each['Value']:.4f}")
    model = job["ModelArtifacts"]["S3ModelArtifacts"]
    typer.echo(f"model: {model}")
    listener.say(f"next: pneumoscope aws deploy {model} --name NAME --to S3://… --image IMAGE")


@command(app, "put-model", "aws.PutModel")
def put_model_command(settings: "PutModel") -> None:
    """Verify a bundle and upload it to S3.

    A CloudFormation stack that classifies uploads reads model.tar.gz and contract.json from this folder. Use a new
    folder for every model: a running stack does not notice that a file was overwritten.
    """
    from pneumoscope.aws.client.model_upload import put_model
    from pneumoscope.cli.show import make_listener

    put_model(_cloud(settings.region), settings, listener=make_listener(quiet=settings.quiet))
    typer.echo(f"model in {settings.folder}.")


@command(app, "deploy", "aws.Deploy")
def deploy_command(settings: "Deploy") -> None:
    """Make or update a SageMaker endpoint from a bundle.

    The bundle is verified here first. The endpoint is a CloudFormation stack, pneumoscope-NAME, which `aws status`
    lists and `aws teardown` deletes.
    """
    from pneumoscope.aws.client.deploy import deploy, endpoint_name
    from pneumoscope.cli.show import make_listener

    name, listener = endpoint_name(settings), make_listener(quiet=settings.quiet)
    try:
        deploy(_cloud(settings.region), settings, listener=listener)
    except KeyboardInterrupt:  # CloudFormation goes on with what it was sent
        typer.echo(f"AWS may still make endpoint {name}; `pneumoscope aws teardown {name}` removes it.", err=True)
        raise
    if not settings.wait:
        typer.echo(f"endpoint {name} is being made; see `pneumoscope aws status`.")
        return
    typer.echo(f"endpoint {name} is in service. It costs money until you run `pneumoscope aws teardown {name}`.")
    listener.say(f"next: pneumoscope aws invoke {name} FILM")


@command(app, "invoke", "aws.Invoke")
def invoke_command(settings: "Invoke") -> None:
    """Send image files to an endpoint.

    The endpoint's decisions and the time of each call are printed. A file over the endpoint's size limit is first
    shrunk to the model's input, which changes no probability. To try this without an AWS account, run `serve --bundle
    BUNDLE --as-endpoint NAME`, and set AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=http://127.0.0.1:8080. Files that
    are rejected or get no decision do not stop the command, unless the endpoint is busy for three in a row; if there
    were any, it exits with code 1.
    """
    from pneumoscope.aws.client.invoke import Client
    from pneumoscope.aws.session import Cloud, uses_stand_in
    from pneumoscope.cli.show_aws import show_decisions
    from pneumoscope.contract import DISCLAIMER

    # A local stand-in ignores the region, but boto3 wants one.
    cloud = Cloud(region=settings.region or "us-east-1", anonymous=True) if uses_stand_in() else _cloud(settings.region)
    client = Client(cloud, settings.endpoint, variant=settings.variant, bundle=settings.bundle)
    refused = show_decisions(client, list(settings.images), settings.form, quiet=settings.quiet)
    if settings.form == "table":
        typer.echo(DISCLAIMER)
    if refused:
        raise typer.Exit(1)


@command(app, "score", "aws.Score")
def score_command(settings: "Score") -> None:
    """Score a folder in S3 by SageMaker Batch Transform.

    The films that have no result yet are sent to a batch transform job. Its responses become the Parquet parts that
    `pneumoscope score` writes. After an interruption, a failed job or --no-wait, run the same command again: it waits
    for the running job, sends the films that are left, and gathers the responses. Ctrl-C leaves the job running. A
    damaged film is a row with its reason. For research use only; not a medical device.
    """
    import pyarrow  # noqa: F401, ICN001 (a missing extra must end the command before the films are listed)

    from pneumoscope.aws.client.batch_scoring import finish, plan, start
    from pneumoscope.aws.client.model_upload import verified_bundle
    from pneumoscope.aws.scoring import S3Destination, S3Films
    from pneumoscope.cli.show import make_listener
    from pneumoscope.cli.show_score import show_summary
    from pneumoscope.imaging import DEFAULT_LIMITS

    cloud, listener = _cloud(settings.region), make_listener(quiet=settings.quiet)
    source = S3Films(location=settings.source, region=settings.region, limits=DEFAULT_LIMITS)
    destination = S3Destination(location=settings.out, region=settings.region, kms_key=settings.kms_key)
    with verified_bundle(cloud, settings.model, listener) as bundle:
        batch = plan(cloud, settings, source, destination, bundle, listener=listener)
        typer.echo(batch.describe(), err=True)
        if settings.dry_run:
            return
        name = start(cloud, batch, listener=listener)
        if name is not None:
            typer.echo(f"transform job {name} runs in {cloud.region}.", err=True)
            if not settings.wait:
                typer.echo("next: the same command without --no-wait, which gathers the responses", err=True)
                return
        try:
            summary = finish(cloud, batch, name, listener=listener)
        except KeyboardInterrupt:
            typer.echo("stopped; a job that was started still runs; run the same command again later.", err=True)
            raise
    show_summary(summary, destination.address, settings.form)


@command(app, "status", "aws.Status")
def status_command(settings: "Status") -> None:
    """List what Pneumoscope made on AWS.

    These are the endpoints, stacks, training jobs and batch transform jobs of one region.
    """
    from pneumoscope.aws.client.inventory import status
    from pneumoscope.cli.show_aws import show_resources

    cloud = _cloud(settings.region)
    show_resources(status(cloud), settings.form, cloud.region)


@command(app, "teardown", "aws.Teardown")
def teardown_command(settings: "Teardown") -> None:
    """Delete an endpoint and its models.

    The endpoint's stack and its models' files in S3 are listed, then deleted after confirmation. Only files with the
    tag that `aws deploy` gave them are deleted. Data sets, results of training jobs, films and responses of an
    asynchronous endpoint, and captured films and responses stay.
    """
    from pneumoscope.aws.client.inventory import capture_location, deployed_resources

    cloud, name = _cloud(settings.region), settings.name
    found = list(deployed_resources(cloud, name, keep_model=settings.keep_model))
    captures = capture_location(cloud, name)  # read now, because the stack that names them is deleted below
    if not found:
        typer.echo(f"nothing named {name} was made by Pneumoscope in {cloud.region}.")
        return
    if not settings.yes:
        for each in found:
            typer.echo(f"to be removed: {each.name}", err=True)
        if not sys.stdin.isatty():
            raise UsageError("teardown asks before it removes anything; without a terminal, pass --yes.")
        typer.confirm(f"Remove these {len(found)} resources in {cloud.region}?", abort=True, err=True)
    for each in found:
        each.remove()
        typer.echo(f"removed: {each.name}")
    if captures is not None:
        typer.echo(f"note: captured films and responses stay in {captures} until you delete them.", err=True)


def _cloud(region: str | None) -> "Cloud":
    from pneumoscope.aws.session import Cloud

    return Cloud(region=region)
