"""Synthetic inputs that tests share: image files, archives, decisions, out-of-fold predictions."""

import struct
import zipfile
import zlib
from collections import Counter
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumoscope.contract import Calibration, CoverageRow, Decision, OperatingPoint, Sides
from pneumoscope.dataset.grammar import parse_version2
from pneumoscope.engine import DecisionDocument
from pneumoscope.imaging import read_luma
from pneumoscope.phantom import FINDINGS, encode_jpeg, film

REPOSITORY = Path(__file__).parent.parent
REAL = REPOSITORY.parent / "shared" / "data"
# For `python -c`. A shell makes its background jobs ignore Ctrl-C, and their children inherit that; this undoes it.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from pneumoscope.cli import main
main()
"""
if TYPE_CHECKING:
    from pneumoscope.dataset import Dataset
    from pneumoscope.dataset.prepare import PrepareSummary
    from pneumoscope.export.calibration import CalibrationSet
    from pneumoscope.training.evidence import Evidence

TINY: dict[str, Any] = {
    "arch": "test_resnet",
    "size": 48,
    "weights": "none",
    "low_pass": 3,
    "epochs": 2,
    "batch_size": 16,
    "lr": 0.01,
}


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Bytes of an image file."""
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def ramp(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    """A grey image in which every quarter differs, so that any flip or turn shows."""
    values = np.linspace(0, 200, height)[:, None] + np.linspace(0, 55, width)[None, :]
    return np.asarray(np.rint(values), dtype=np.uint8)


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    """A ZIP archive with members of any name."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def small_films(patients: int = 6) -> dict[str, bytes]:
    """Small phantoms as JPEG under version 2 names, in train and test parts: per class, two films of each patient."""
    members = {}
    for patient in range(1, patients + 1):
        part = "test" if patient % 3 == 0 else "train"
        for shot in range(2):
            for finding in FINDINGS:
                luma = film(finding, patient=patient, shot=shot, size=(64, 72))
                number = 2 * patient + shot
                name = (
                    f"NORMAL/IM-{patient:04d}-{shot:04d}.jpeg"
                    if finding == "normal"
                    else f"PNEUMONIA/person{patient}_{finding}_{number}.jpeg"
                )
                members[f"chest_xray/{part}/{name}"] = encode_jpeg(luma)
    return members


def as_version3(members: dict[str, bytes], first_number: int = 4_000_001) -> dict[str, bytes]:
    """The same films under version 3's names and folders, where one number identifies each patient."""
    numbers: dict[str, int] = {}
    shots: Counter[int] = Counter()
    renamed = {}
    for name, data in members.items():
        path = PurePosixPath(name)
        identity = parse_version2(path.stem)
        assert identity is not None
        assert identity.patient is not None
        number = numbers.setdefault(identity.patient, first_number + len(numbers))
        shots[number] += 1
        file = f"{identity.label.upper()}-{number}-{shots[number]:04d}{path.suffix}"
        renamed[f"CellData/{path.parent.as_posix()}/{file}"] = data
    return renamed


def reencoded(data: bytes, **options: Any) -> bytes:
    """The same film in another image file: as PNG without loss, or as JPEG with a `quality`."""
    luma = Image.fromarray(read_luma(data))
    return encode(luma, "JPEG", **options) if options else encode(luma)


def coverage_row(
    coverage: float | None, classes: dict[str, float], groups: dict[str, tuple[float, float]] | None = None
) -> CoverageRow:
    """A row of a decision's table; `groups` gives each group's thresholds, inside and outside."""
    sides = {name: Sides(inside=inside, outside=outside) for name, (inside, outside) in (groups or {}).items()}
    return CoverageRow(coverage=coverage, classes=classes, groups=sides, observed={}, answered=None, accuracy=None)


def stub_calibrate(calibration_set: "CalibrationSet") -> tuple[Calibration, Decision]:
    """A stand-in for `calibrate`, for untrained networks: sharp probabilities, so that the largest is answered.

    At coverage 0.99 every class fits every film. One operating point always decides for pneumonia, the other never.
    """
    scale, bias = (dict.fromkeys(calibration_set.classes, value) for value in (50.0, 0.0))
    table = [
        coverage_row(
            coverage,
            dict.fromkeys(calibration_set.classes, least),
            dict.fromkeys(calibration_set.groups, (least, least)),
        )
        for coverage, least in ((0.9, 0.5), (0.99, 0.0))
    ]
    points = [
        OperatingPoint(
            name=f"{aim}-0.95", group=group, aim=aim, level=0.95, threshold=least, sensitivity=0.9, specificity=0.9
        )
        for group in calibration_set.groups
        for aim, least in (("sensitivity", 0.0), ("specificity", 1.0))
    ]
    prior = calibration_set.by_class(calibration_set.prior)
    return (
        Calibration(method="temperature", scale=scale, bias=bias, prior=prior, evidence="validation", films=17),
        Decision(coverage=0.9, table=tuple(table), operating_points=tuple(points), evidence="validation", films=17),
    )


def parse_decision(line: dict[str, Any], *beside: str) -> DecisionDocument:
    """Parse JSON of a command, a service or a function as the documented decision; `beside` names keys that it adds."""
    decision = {name: value for name, value in line.items() if name not in beside}
    assert list(decision) == list(DecisionDocument.model_json_schema(by_alias=True)["properties"])
    return DecisionDocument.model_validate(decision)


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    """A document without these keys."""
    return {name: value for name, value in document.items() if name not in names}


def made_up_evidence(dataset: "Dataset", run: Path) -> "Evidence":
    """Random out-of-fold predictions, mostly right, for a run's train and validation films."""
    from pneumoscope.training.evidence import About, Evidence
    from pneumoscope.training.run_directory import load_card, load_config

    films = [film for film in dataset.films if film.split in ("train", "val")]
    random, count = np.random.default_rng(0), len(films)
    config, card = load_config(run), load_card(run)
    label = np.array([card.classes.index(film.label) for film in films], np.int8)
    patients = {name: number for number, name in enumerate(sorted({film.patient for film in films}))}
    patient = np.array([patients[film.patient] for film in films], np.int32)
    logits = (random.normal(size=(count, len(card.classes))) + 2 * np.eye(len(card.classes))[label]).astype(np.float32)
    return Evidence(
        about=About(
            schema_version=1,
            classes=card.classes,
            groups=card.groups,
            dataset=dataset.fingerprint,
            folds=3,
            seed=0,
            config=config,
            commit=None,
            versions={},
        ),
        film=np.array([list(bytes.fromhex(film.file_sha256)) for film in films], np.uint8),
        patient=patient,
        label=label,
        fold=(patient % 3).astype(np.int8),
        logits=logits,
        stress=logits,
        embedding=random.normal(size=(count, 5)).astype(np.float16),
    )


def write_tree(root: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def speckle(label: str, number: int) -> NDArray[np.uint8]:
    return np.random.default_rng([*label.encode(), number]).integers(0, 256, (40, 60), dtype=np.uint8)


def assert_fails(done: SimpleNamespace, code: int, *words: str) -> None:
    """The command ended with this exit code and one error line, without a traceback; its stderr has these words."""
    assert done.code == code, done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    """A PNG with a header and very little data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def deep_png(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits and 2 to 4 channels (`[H, W, C]`), which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_transparent_colour(png: bytes) -> bytes:
    """The PNG of 16 bits with a chunk tRNS, by which one colour is transparent."""
    chunk = b"tRNS" + bytes(6)
    at = png.index(b"IDAT") - 4
    return png[:at] + struct.pack(">I", 6) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[at:]


def noise(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Inputs that a network distinguishes: random grids of 8 by 8, enlarged to smooth fields."""
    import torch

    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 1, 8, 8)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(size, size), mode="bilinear")
    return smooth.numpy().astype(np.uint8)


def prepare_archives(folder: Path, *sources: dict[str, bytes], **settings: Any) -> "tuple[PrepareSummary, Dataset]":
    """Make a data set in `folder` from ZIP archives of these members."""
    from pneumoscope.dataset import PrepareConfig, load_dataset, prepare

    folder.mkdir(exist_ok=True)
    paths = [make_zip(folder / f"v{number + 2}.zip", members) for number, members in enumerate(sources)]
    summary = prepare(paths, folder / "out", PrepareConfig(val_fraction=0.25, **settings))
    return summary, load_dataset(folder / "out")


def noise_film(seed: str) -> NDArray[np.uint8]:
    """Noise that differs from text to text, `uint8 [60, 60]`."""
    return np.random.default_rng(list(seed.encode())).integers(0, 256, (60, 60), dtype=np.uint8)


def names_in(folder: Path) -> set[str]:
    """The names of the files in a folder."""
    return {path.name for path in folder.iterdir()}
