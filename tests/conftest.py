"""What tests share: a small data set, run and bundle, made once per session; and clouds, functions and a browser."""

import contextlib
import io
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pneumoscope.contract import Population, load_contract, save_contract
from pneumoscope.dataset import Dataset, PrepareConfig, load_dataset, prepare
from pneumoscope.imaging import levels
from pneumoscope.phantom import write_archive_folder, write_archive_zip
from samples import TINY, make_zip, stub_calibrate

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from lambda_account import Bucket, Start
    from lambda_runtime import Function
    from local_cloud import LocalCloud
    from pneumoscope.aws.session import Cloud
    from pneumoscope.engine import Engine
    from service import Service
    from stacks import Stack

# Test modules that train, start processes or use a local cloud. With `--quick` they are not even imported.
_SLOW = """audit audit_faults audit_shortcuts aws backbone batch benchmarks container endpoint export
export_calibration faults fetch fetch_films fit folds functions_api functions_faults functions_on_upload hostile invoke
invoke_faults job job_hosts make_model models page page_controls page_layout page_service policies quantise rayserve
readme resume sagemaker score score_nodes score_ray score_s3 serve server stack template template_access template_stack
training upload weights"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out what trains, starts processes or is marked slow")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    slow = {f"test_{name}" for name in _SLOW.split()}
    return True if config.option.quick and collection_path.stem in slow else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.quick:
        items[:] = [
            item
            for item in items
            if not item.get_closest_marker("slow") and "tiny_run" not in getattr(item, "fixturenames", ())
        ]


@pytest.fixture
def any_greys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept films with any number of greys: for tests of exact values at the ends of the range."""
    monkeypatch.setattr(levels, "_HARD_SHARE", 1)
    monkeypatch.setattr(levels, "_HARD_LEVELS", 0)


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "archive"
    write_archive_folder(folder, count=90, seed=3, overwrite=False)
    return folder


@pytest.fixture(scope="session")
def phantom_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phantoms") / "ChestXRay2017.zip"
    write_archive_zip(path, count=90, seed=3)
    return path


@pytest.fixture(scope="session")
def dataset(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("datasets") / "phantoms"
    prepare([phantom_folder], out, PrepareConfig(val_fraction=0.25))
    return load_dataset(out)


@pytest.fixture(scope="session")
def all_train(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A data set in which all films are train films."""
    out = tmp_path_factory.mktemp("all-train") / "data"
    prepare([phantom_folder], out, PrepareConfig(train_only=True))
    return load_dataset(out)


@pytest.fixture(scope="session")
def phantom_members() -> dict[str, bytes]:
    """Small phantoms by their names in an archive, enough for a mean film and five folds."""
    from audits import small_archive

    return small_archive(150, seed=5)


@pytest.fixture(scope="session")
def clean_data(phantom_members: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set without faults."""
    folder = tmp_path_factory.mktemp("clean")
    zipped = make_zip(folder / "a.zip", phantom_members)
    prepare([zipped], folder / "data", PrepareConfig(val_fraction=0.2, stress=True))
    return folder / "data"


@pytest.fixture
def own_data(clean_data: Path, tmp_path: Path) -> Path:
    """A copy of the clean data set that a test can damage."""
    return Path(shutil.copytree(clean_data, tmp_path / "data"))


@pytest.fixture(scope="session")
def tiny_run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pneumoscope.training.config import make_config
    from pneumoscope.training.fit import train

    run = tmp_path_factory.mktemp("runs") / "tiny"
    train(dataset, make_config({"recipe": "tiny", **TINY}, {}), run)
    return run


@pytest.fixture(scope="session")
def drawn_bundle(tiny_run: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that `export` made of a run on drawings; calibration and decision are stubs (see `stub_calibrate`)."""
    from pneumoscope.export import export

    bundle = tmp_path_factory.mktemp("bundles") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pneumoscope.export.exporter.calibrate", stub_calibrate)
        export(tiny_run, dataset, bundle)
    return bundle


@pytest.fixture(scope="session")
def tiny_bundle(drawn_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, which claims to have been trained on the published archive's films."""
    bundle = Path(shutil.copytree(drawn_bundle, tmp_path_factory.mktemp("bundles") / "tiny"))
    population = Population(age_years=(1, 5), drawings=False)
    save_contract(load_contract(bundle).model_copy(update={"population": population}), bundle)
    return bundle


@pytest.fixture(scope="session")
def described_bundle(tiny_run: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, exported with made-up out-of-fold predictions, so that it has a report of them."""
    from pneumoscope.export import export
    from pneumoscope.settings.training import ExportConfig
    from pneumoscope.training.evidence import save_evidence
    from samples import made_up_evidence

    folder = tmp_path_factory.mktemp("bundles")
    save_evidence(made_up_evidence(dataset, tiny_run), folder / "evidence.npz")
    export(tiny_run, dataset, folder / "described", ExportConfig(evidence=folder / "evidence.npz", name="described"))
    return folder / "described"


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test can damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> "Engine":
    from pneumoscope.engine import Engine

    return Engine.load(tiny_bundle)


@pytest.fixture(scope="session")
def command() -> Callable[..., SimpleNamespace]:
    """Run the command line as a user types it, but in this process: a new one takes seconds to load torch."""

    def run(*arguments: object, cwd: Path | None = None) -> SimpleNamespace:
        from pneumoscope.cli import main

        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.chdir(cwd or Path.cwd()),
            warnings.catch_warnings(),
        ):
            patch.setattr(sys, "argv", ["pneumoscope", *map(str, arguments)])
            code: object = 0
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
        return SimpleNamespace(code=code, out=texts[0], err=texts[1])

    return run


@pytest.fixture(scope="module")
def shared_cloud() -> Iterator["LocalCloud"]:
    from local_cloud import cloud

    with cloud() as running:
        yield running


@pytest.fixture
def aws(shared_cloud: "LocalCloud") -> "Cloud":
    """An empty AWS account with one bucket and one role."""
    from account import PLACE, REGION, TRUST
    from pneumoscope.aws.session import Cloud

    shared_cloud.reset()
    here = {"LocationConstraint": REGION}
    shared_cloud.client("s3").create_bucket(Bucket=PLACE.bucket, CreateBucketConfiguration=here)
    shared_cloud.client("iam").create_role(RoleName="trainer", AssumeRolePolicyDocument=TRUST)
    return Cloud(region=REGION)


@pytest.fixture(scope="module")
def stacks(shared_cloud: "LocalCloud") -> "dict[str, Stack]":
    """The SAM template's stack, created once for each of its cases."""
    from sam_template import CASES, make

    return {name: make(shared_cloud, f"case-{name}", case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def local(tiny_bundle: Path) -> Iterator["LocalCloud"]:
    """For the Lambda functions: an account with what the template creates, except the functions."""
    from lambda_account import account

    with account(tiny_bundle) as made:
        yield made


@pytest.fixture(scope="module")
def endpoint(tiny_bundle: Path) -> Iterator["Service"]:
    """Our own service as the endpoint that the Lambda functions call."""
    from lambda_account import ENDPOINT
    from service import serving

    with serving(tiny_bundle, "--as-endpoint", ENDPOINT) as made:
        yield made


@pytest.fixture(scope="module")
def start(local: "LocalCloud", endpoint: "Service") -> "Start":
    """Start a Lambda function, with changes of its environment."""
    from lambda_account import starter

    return starter(local, endpoint)


@pytest.fixture(scope="module")
def with_endpoint(start: "Start") -> Iterator["Function"]:
    """The bucket's function, which calls the endpoint."""
    with start("on_upload") as function:
        yield function


@pytest.fixture(scope="module")
def in_process(start: "Start") -> Iterator["Function"]:
    """The bucket's function, which runs the model in its own process."""
    with start("on_upload", PNEUMOSCOPE_ENDPOINT="") as function:
        yield function


@pytest.fixture(scope="module")
def api(start: "Start") -> Iterator["Function"]:
    """The function behind the HTTP API."""
    with start("api") as function:
        yield function


@pytest.fixture
def bucket(local: "LocalCloud", request: pytest.FixtureRequest) -> "Bucket":
    from lambda_account import Bucket

    return Bucket(local, request.node.name)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium, closed after each module: its event loop would disturb tests that have a loop of their own."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed; `apt-get install chromium` installs it")
    quiet = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=list(quiet))
        yield started
        started.close()


@pytest.fixture(scope="session")
def page_films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files for the page: one film in several formats, another film, a lateral view and a file of words."""
    import numpy as np
    from PIL import Image

    import dicoms
    from pneumoscope.phantom import encode_jpeg, film
    from samples import encode

    folder = tmp_path_factory.mktemp("page-films")
    luma = film("virus", patient=2, size=(300, 360))
    deep = luma.astype(np.uint16) * 16
    contents = {
        "film.jpeg": encode_jpeg(luma),
        "deep.png": encode(Image.fromarray(luma.astype(np.uint16) * 257)),
        "film.tiff": encode(Image.fromarray(luma), "TIFF"),
        "film.dcm": dicoms.dicom(4095 - deep, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11),
        "normal.jpeg": encode_jpeg(film("normal", patient=3, size=(280, 300))),
        "lateral.dcm": dicoms.dicom(deep, ViewPosition="LL"),
        "words.jpeg": b"these are words",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}


@pytest.fixture(scope="session")
def steady_run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained long enough that rounding does not change the classes that it predicts."""
    from pneumoscope.training.config import make_config
    from pneumoscope.training.fit import train

    run = tmp_path_factory.mktemp("runs") / "steady"
    values: dict[str, Any] = {"recipe": "steady", **TINY, "epochs": 12, "optimizer": "adamw", "lr": 0.004}
    train(dataset, make_config(values, {}), run)
    return run
