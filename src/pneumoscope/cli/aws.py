"""`pneumoscope aws …`: the cloud half."""

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.errors import CloudError, UsageError

if TYPE_CHECKING:
    from pneumoscope.aws.session import Cloud, Location

app = typer.Typer(
    help="Films to S3, a training job, an endpoint, and back to nothing (docs/aws.md).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Quiet = Annotated[bool, typer.Option("--quiet", help="Do not print progress or messages.")]
Region = Annotated[str | None, typer.Option(help="AWS region; by default your environment's or profile's.")]
Role = Annotated[
    str, typer.Option(envvar="PNEUMOSCOPE_ROLE", help="Name or ARN of the role that SageMaker takes on (docs/aws.md).")
]


def _key(given: str | None) -> str | None:
    if given is not None and given.rpartition(":")[2].startswith("alias/"):
        raise UsageError(f"--kms-key {given!r} is an alias; give the key's id or ARN, which AWS takes everywhere.")
    return given


Key = Annotated[
    str | None, typer.Option(callback=_key, help="Id or ARN of a KMS key to encrypt with; by default S3's own keys.")
]


class Precision(StrEnum):
    """Of the exported model's arithmetic."""

    fp32 = "fp32"
    int8 = "int8"


class Variant(StrEnum):
    """How an endpoint answers."""

    realtime = "realtime"
    serverless = "serverless"
    asynchronous = "async"


class Serving(StrEnum):
    """Whose image serves."""

    own = "own"
    ray = "ray"


class Form(StrEnum):
    """How answers are printed."""

    table = "table"
    json = "json"


def endpoint_name(given: str | None) -> str | None:
    """Let through what SageMaker takes as a name.

    Raises:
        UsageError: it takes no such name.
    """
    from pneumoscope.settings.names import checked_name

    try:
        return None if given is None else checked_name(given)
    except ValueError as failure:
        raise UsageError(f"{failure}.") from None


@app.command("upload")
def upload_command(
    dataset: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A data set made by `data prepare`.")],
    place: Annotated[str, typer.Argument(metavar="S3://BUCKET/PREFIX", help="Where to put it.")],
    *,
    region: Region = None,
    kms_key: Key = None,
    allow_public: Annotated[
        bool, typer.Option("--allow-public", help="Into a bucket that the public can read, too.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Put a data set into S3, encrypted. Sends only what is not there yet, so it may be broken off and repeated.

    The bucket must be in the region of the work to come. The manifest is sent last.
    """
    from pneumoscope.aws.client.upload import upload
    from pneumoscope.aws.session import parse_location
    from pneumoscope.cli.show import make_listener
    from pneumoscope.dataset import load_dataset

    target, found = parse_location(place), load_dataset(dataset)
    done = upload(
        _cloud(region),
        found,
        target,
        kms_key=kms_key,
        allow_public=allow_public,
        listener=make_listener(quiet=quiet),
    )
    typer.echo(f"{target}: {done.sent:,} files sent ({done.sent_bytes / 1e6:,.1f} MB), {done.there:,} there already.")
    if not quiet:
        typer.echo(f"next: pneumoscope aws train --data {target} --out s3://{target.bucket}/runs --role ROLE", err=True)


@app.command("train")
def train_command(
    data: Annotated[str, typer.Option(metavar="S3://…", help="A data set, as `aws upload` puts it there.")],
    out: Annotated[str, typer.Option(metavar="S3://…", help="Where model, reports and checkpoints go.")],
    role: Role,
    *,
    test: Annotated[
        str | None, typer.Option(metavar="S3://…", help="A data set whose test split is evaluated at the end.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A shipped recipe's name (see `train --help`).")] = "quick",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Change one value of the recipe, e.g. epochs=4. Repeatable.")
    ] = None,
    export_precision: Annotated[
        Precision | None, typer.Option(help="Of the bundle, fp32 or int8; by default fp32.")
    ] = None,
    unprepared: Annotated[
        bool, typer.Option("--unprepared", help="--data has folders of films and no manifest; the job prepares it.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="The job's name; by default the recipe's and the time.")] = None,
    image: Annotated[
        str | None, typer.Option(help="Our own training image in ECR; by default AWS's PyTorch image and this code.")
    ] = None,
    instance_type: Annotated[str, typer.Option(help="Type of instance.")] = "ml.g5.xlarge",
    instances: Annotated[int, typer.Option(min=1, help="Hosts to train on.")] = 1,
    volume_gb: Annotated[int, typer.Option(help="Disk of each host.")] = 50,
    max_hours: Annotated[float, typer.Option(help="Stopped after so long.")] = 12.0,
    spot: Annotated[bool, typer.Option("--spot", help="Spare capacity: cheaper, resumed if interrupted.")] = False,
    fast_file: Annotated[bool, typer.Option("--fast-file", help="Stream the films instead of copying first.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job and its log until it has ended.")] = False,
    region: Region = None,
    kms_key: Key = None,
    quiet: Quiet = False,
) -> None:
    """Start a SageMaker training job that runs `pneumoscope train`; it leaves a bundle as model.tar.gz.

    The recipe is checked here, before anything costs. Ctrl-C while waiting leaves the job running.
    """
    from pneumoscope.aws.client.images import training_image
    from pneumoscope.aws.client.train import TrainingRequest, follow, start
    from pneumoscope.aws.session import parse_location
    from pneumoscope.cli.show import make_listener
    from pneumoscope.training.config import load_recipe, make_config, recipe_names

    values = dict(_setting(text) for text in setting or [])
    if recipe not in recipe_names():
        raise UsageError(
            f"{recipe!r} is no shipped recipe, and a job has no other; there are {', '.join(recipe_names())}."
        )
    config = make_config(load_recipe(recipe), dict(values))
    if config.weights not in ("imagenet", "none"):
        raise UsageError(f"weights {config.weights!r} are a file, which a job does not have; take imagenet or none.")
    if export_precision is not None:
        values["export_precision"] = export_precision.value
    cloud = _cloud(region)
    request = _checked(
        TrainingRequest,
        name=name or f"{recipe}-{datetime.now(UTC):%Y-%m-%d-%H-%M-%S}",
        role=role,
        data=str(parse_location(data)),
        unprepared=unprepared,
        test=None if test is None else str(parse_location(test)),
        output=str(parse_location(out)),
        image=image or training_image(instance_type, cloud.region),
        own_image=image is not None,
        instance_type=instance_type,
        instances=instances,
        volume_gb=volume_gb,
        max_hours=max_hours,
        spot=spot,
        fast_file=fast_file,
        kms_key=kms_key,
        hyperparameters={"recipe": recipe, **values},
    )
    start(cloud, request)
    typer.echo(f"training job {request.name} started in {cloud.region}.")
    if not wait:
        typer.echo("next: pneumoscope aws status", err=True)
        return
    try:
        job = follow(cloud, request.name, listener=make_listener(quiet=quiet))
    except KeyboardInterrupt:
        typer.echo(
            f"not followed any more; training job {request.name} goes on, see `pneumoscope aws status`.", err=True
        )
        raise
    for metric, value in job.metrics.items():
        typer.echo(f"{metric}: {value:.4f}")
    typer.echo(f"model: {job.model}")
    if not quiet:
        typer.echo(f"next: pneumoscope aws deploy {job.model} --to S3://… --role ROLE --image IMAGE", err=True)


@app.command("deploy")
def deploy_command(
    source: Annotated[str, typer.Argument(help="A bundle, or a training job's s3://…/model.tar.gz.")],
    to: Annotated[str, typer.Option(metavar="S3://…", help="Where the model goes; a folder NAME is made there.")],
    role: Role,
    *,
    name: Annotated[str | None, typer.Option(help="The endpoint's name; by default the model's.")] = None,
    variant: Annotated[Variant, typer.Option(help="How it answers.")] = Variant.realtime,
    serving: Annotated[Serving, typer.Option(help="Our image (give --image), or AWS's for Ray Serve.")] = Serving.own,
    image: Annotated[str | None, typer.Option(help="Our service's image in ECR (docs/aws.md).")] = None,
    instance_type: Annotated[str, typer.Option(help="Type of instance.")] = "ml.c6i.large",
    instances: Annotated[int, typer.Option(min=1, help="Instances to begin with.")] = 1,
    most_instances: Annotated[int, typer.Option(min=1, help="Scale by load up to so many, unless serverless.")] = 1,
    calls_per_minute: Annotated[
        int, typer.Option(min=1, help="Of one instance, before another is added, if real-time.")
    ] = 600,
    memory_mb: Annotated[int, typer.Option(help="Of a serverless endpoint, 1024 to 6144.")] = 3072,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at a time, if serverless or async.")] = 4,
    capture: Annotated[
        str | None, typer.Option(metavar="S3://…", help="Keep every film and answer there. Off unless given.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it answers.")] = True,
    region: Region = None,
    kms_key: Key = None,
    quiet: Quiet = False,
) -> None:
    """Make a SageMaker endpoint from a bundle, after its golden cases came out right here.

    What it makes bears a tag, by which `aws status` finds it and `aws teardown` removes it.
    """
    from pneumoscope.aws.client.deploy import Deployment, await_service, deploy, scale, scales
    from pneumoscope.aws.client.images import RAY_SERVE, aws_image
    from pneumoscope.aws.session import parse_location
    from pneumoscope.cli.show import make_listener
    from pneumoscope.contract import load_contract

    for_ray = serving is Serving.ray
    origin: Path | Location = parse_location(source) if source.startswith("s3://") else Path(source)
    if isinstance(origin, Path):
        contract = load_contract(origin)
        name = name or contract.name
    elif name is None:
        raise UsageError("--name is missing; a model in S3 does not tell its name before it is fetched.")
    if image is None and not for_ray:
        raise UsageError("--image is missing; build ours and push it to ECR (docs/aws.md), or pass --serving ray.")
    cloud = _cloud(region)
    wanted = _checked(
        Deployment,
        name=name,
        role=role,
        place=str(parse_location(to)),
        image=image or aws_image(RAY_SERVE, cloud.region),
        for_ray=for_ray,
        variant=variant.value,
        instance_type=instance_type,
        instances=instances,
        most_instances=max(instances, most_instances),
        calls_per_minute=calls_per_minute,
        memory_mb=memory_mb,
        concurrency=concurrency,
        capture=None if capture is None else str(parse_location(capture)),
        kms_key=kms_key,
    )
    listener = make_listener(quiet=quiet)
    deploy(cloud, wanted, origin, listener=listener)
    if not wait:
        typer.echo(f"endpoint {name} is being made; scaling by load is set up only with --wait.")
        return
    try:
        await_service(cloud, name, listener=listener)
        if scales(wanted):
            scale(cloud, wanted)
    except (KeyboardInterrupt, CloudError):
        typer.echo(
            f"endpoint {name} is there all the same, and costs until `pneumoscope aws teardown {name}`.", err=True
        )
        raise
    typer.echo(f"endpoint {name} is in service. It costs until `pneumoscope aws teardown {name}`.")
    if not quiet:
        typer.echo(f"next: pneumoscope aws invoke {name} FILM", err=True)


@app.command("invoke")
def invoke_command(
    endpoint: Annotated[str, typer.Argument(callback=endpoint_name, help="The endpoint's name.")],
    images: Annotated[list[Path], typer.Argument(exists=True, help="Films, or folders of them.")],
    *,
    variant: Annotated[Variant | None, typer.Option(help="How it is asked; by default AWS is asked that.")] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Its bundle, to shrink films that are too large for it."),
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="How to print.")] = Form.table,
    region: Region = None,
    quiet: Quiet = False,
) -> None:
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

    cloud = Cloud(region=region or "us-east-1", anonymous=True) if stand_in() else _cloud(region)
    client = Client(cloud, endpoint, variant=None if variant is None else variant.value, bundle=bundle)
    refused = show_answers(client, images, form.value, quiet=quiet)
    if form is Form.table:
        typer.echo(DISCLAIMER)
    if refused:
        raise typer.Exit(1)


@app.command("status")
def status_command(
    *,
    form: Annotated[Form, typer.Option("--format", help="How to print.")] = Form.table,
    region: Region = None,
) -> None:
    """List the endpoints, configurations, models and training jobs of this region that were made from here."""
    from pneumoscope.aws.client.inventory import status
    from pneumoscope.cli.show_aws import show_made

    cloud = _cloud(region)
    show_made(status(cloud), form.value, cloud.region)


@app.command("teardown")
def teardown_command(
    name: Annotated[str, typer.Argument(callback=endpoint_name, help="The endpoint's name.")],
    *,
    keep_model: Annotated[
        bool, typer.Option("--keep-model", help="Leave the model's files in S3, for a stack or another endpoint.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    region: Region = None,
) -> None:
    """Remove an endpoint, its scaling, configuration and model, and the model's files in S3, after listing them.

    Only what bears the tag that `aws deploy` gave it. Data sets, training jobs' results, and films and
    answers of an asynchronous endpoint stay.
    """
    from pneumoscope.aws.client.inventory import belongings, captured

    cloud = _cloud(region)
    found = list(belongings(cloud, name, keep_model=keep_model))
    films = captured(cloud, name)
    if not found:
        typer.echo(f"nothing named {name} that was made from here is in {cloud.region}.")
        return
    if not yes:
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


def _setting(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise UsageError(f"--set {text!r} is not NAME=VALUE, such as epochs=4.")
    return name.strip().replace("-", "_"), value.strip()


def _checked(kind: Any, **values: Any) -> Any:
    from pydantic import ValidationError

    from pneumoscope.documents import first_problem

    try:
        return kind(**values)
    except ValidationError as failure:
        raise UsageError(f"{first_problem(failure)}; see `--help`.") from None
