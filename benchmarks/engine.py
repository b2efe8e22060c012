"""The engine compared with a plain implementation. All tables are measured in this one run.

    python benchmarks/engine.py [--bundle DIR] [--films originals-160.zip] [--many N]
        [--resnet50 [--run RUN --data DATASET]]

The default bundle is the one that ships with the package. Without --films, phantoms of the originals' sizes are used.
--many is the number of films in the larger folder of the memory test. With --resnet50, the same tables follow for a
ResNet-50 at 224 px in fp32 and in int8: that of --run, or one trained on a few phantoms for four epochs from random
weights.

The plain way is the capstone's: Pillow to RGB; torchvision's resize, tensor and normalisation; PyTorch eager in fp32 on
all cores. It runs a ResNet-50 at 224 px, and the bundle's own network at its own size, both with random weights: speed
does not depend on what a network learnt. The bound of `predict_many` is the sum of two times, that of decoding and that
of the model, each measured alone with all cores at work.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torchvision.transforms import v2

from pneumoscope.contract import InputRule
from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.engine import Engine, ImageFile
from pneumoscope.errors import BundleError
from pneumoscope.export import export
from pneumoscope.imaging import load_input
from pneumoscope.models import shipped_bundle
from pneumoscope.parallel import available_cores
from pneumoscope.phantom import FINDINGS, encode_jpeg, film, write_archive_folder
from pneumoscope.settings.training import ExportConfig
from pneumoscope.training.config import load_recipe, make_config
from pneumoscope.training.fit import train
from processes import peak_memory

# Median rows and columns of bacterial, normal and viral originals, in the order of FINDINGS.
SIZES = [(760, 1136), (1357, 1654), (808, 1272)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="the bundle; by default the one that ships with the package")
    parser.add_argument("--films", type=Path, help="ZIP of JPEG films")
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--resnet50", action="store_true", help="also a ResNet-50 in fp32 and int8")
    parser.add_argument("--run", type=Path, help="with --resnet50: a finished ResNet-50 run")
    parser.add_argument("--data", type=Path, help="with --run: its data set")
    arguments = parser.parse_args()
    if (arguments.run is None) != (arguments.data is None) or (arguments.run is not None and not arguments.resnet50):
        parser.error("--run and --data must be given together, and with --resnet50")
    films, what = read_films(arguments.films)
    print(f"{len(films)} {what}, {available_cores()} cores", flush=True)
    with tempfile.TemporaryDirectory() as name:
        bundle_tables(films, arguments.bundle, arguments.many, Path(name))
        if arguments.resnet50:
            resnet50_tables(films, arguments.run, arguments.data, arguments.many, Path(name))


def bundle_tables(films: list[bytes], chosen: Path | None, many: int, folder: Path) -> None:
    """Print the tables of the given bundle, or of the one that ships."""
    bundle = chosen or shipped_bundle()
    engine = Engine.load(bundle)
    contract = engine.contract
    arch, size = contract.provenance.arch, contract.input.size
    print(f"{contract.name} {contract.version}, {contract.precision}: {arch} at {size} px", flush=True)
    latency(films, [("resnet50", 224), (arch, size)], {"Engine.predict": engine})
    throughput(films, {contract.name: engine})
    memory(films, bundle, many, folder, contract.name)
    named_bundle = [] if chosen is None else ["--bundle", str(bundle)]
    start_up(films[0], {"predict film.jpeg": named_bundle}, folder)


def resnet50_tables(films: list[bytes], run: Path | None, data: Path | None, many: int, folder: Path) -> None:
    """Print the tables of a ResNet-50 in fp32 and in int8."""
    if run is None or data is None:
        run, data = train_resnet50(folder)
    bundles = {precision: folder / precision for precision in ("fp32", "int8")}
    for precision, bundle in bundles.items():
        export_bundle(run, data, bundle, precision)
    engines = {precision: Engine.load(bundle) for precision, bundle in bundles.items()}
    print("\nResNet-50 at 224 px, in fp32 and int8", flush=True)
    latency(films, [("resnet50", 224)], {f"Engine.predict, {name}": engine for name, engine in engines.items()})
    throughput(films, engines)
    for precision in ("int8", "fp32"):
        memory(films, bundles[precision], many, folder, precision)
    predictions = {f"predict film.jpeg, {name}": ["--bundle", str(bundles[name])] for name in ("int8", "fp32")}
    start_up(films[0], predictions, folder)


def read_films(path: Path | None) -> tuple[list[bytes], str]:
    """Full-size films as bytes, and a description of them."""
    if path is None:
        phantoms = [
            encode_jpeg(film(finding, patient=patient, size=size))
            for patient in range(1, 21)
            for finding, size in zip(FINDINGS, SIZES, strict=True)
        ]
        return phantoms, "phantoms at the originals' sizes"
    with zipfile.ZipFile(path) as archive:
        names = sorted(each for each in archive.namelist() if each.endswith(".jpeg"))
        return [archive.read(each) for each in names], f"films of {path.name}"


def train_resnet50(folder: Path) -> tuple[Path, Path]:
    """Train a ResNet-50 on a few phantoms; return its run and its data set."""
    write_archive_folder(folder / "phantoms", count=240, overwrite=False)
    prepare([folder / "phantoms"], folder / "data", PrepareConfig(val_fraction=0.2))
    values = load_recipe("capstone-resnet50") | {
        "weights": "none",
        "epochs": 4,
        "batch_size": 16,
        "optimizer": "adamw",
        "lr": 3e-4,
    }
    train(load_dataset(folder / "data"), make_config(values, {}), folder / "run")
    return folder / "run", folder / "data"


def export_bundle(run: Path, data: Path, out: Path, precision: str) -> None:
    """Export a bundle, and print how int8 compares with fp32."""
    try:
        done = export(run, load_dataset(data), out, ExportConfig(precision="int8" if precision == "int8" else "fp32"))
    except BundleError as failure:
        raise SystemExit(f"{precision}: {failure}") from failure
    if (figures := done.quantisation) is not None:
        print(
            f"int8: agreement with fp32 {100 * figures.agreement:.1f} % of {figures.films} validation films, macro-F1 "
            f"{figures.macro_f1:.3f} against {figures.macro_f1_fp32:.3f}, {len(figures.kept_fp32)} layers in fp32",
            flush=True,
        )


def latency(films: list[bytes], plain: list[tuple[str, int]], engines: dict[str, Engine]) -> None:
    """Time one film, bytes to decision, by each engine and by the plain way with each network and size in `plain`."""
    names = [f"plain way {number}" for number in range(1, len(plain) + 1)]
    ways: dict[str, Callable[[bytes], object]] = {
        f"{name}: {arch} at {size} px": plain_predictor(arch, size)
        for name, (arch, size) in zip(names, plain, strict=True)
    }
    ways |= {name: engine.predict for name, engine in engines.items()}
    taken = in_turn(ways, films)
    medians = [statistics.median(times) for times in taken]
    title("one film, decode included", "median ms", "95 % within ms", *(f"of {name}" for name in names))
    for name, times, median in zip(ways, taken, medians, strict=True):
        ratios = [f"{median / reference:.2f}" for reference in medians[: len(plain)]]
        row(name, f"{median * 1e3:.1f}", f"{np.quantile(times, 0.95) * 1e3:.1f}", *ratios)


def plain_predictor(arch: str, size: int) -> Callable[[bytes], list[float]]:
    """The plain way from bytes to probabilities: three channels, random weights."""
    network = timm.create_model(arch, num_classes=len(FINDINGS)).eval()
    transform = plain_transform(size)

    def predict(data: bytes) -> list[float]:
        with Image.open(BytesIO(data)) as image:
            tensor = transform(image.convert("RGB"))
        with torch.no_grad():
            probabilities: list[float] = network(tensor[None]).softmax(dim=1)[0].tolist()
        return probabilities

    return predict


def plain_transform(size: int) -> v2.Compose:
    """The capstone's preprocessing: torchvision, three channels, ImageNet normalisation."""
    return v2.Compose(
        [
            v2.Resize((size, size)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def in_turn(ways: dict[str, Callable[[bytes], object]], films: list[bytes]) -> list[list[float]]:
    """Seconds of each way on each film, after a warm-up.

    The ways take turns in blocks of ten films, so that a busy minute of the machine affects all of them, and
    the waiting threads of one way do not slow down the next.
    """
    taken: list[list[float]] = [[] for _ in ways]
    for start in range(0, len(films), 10):
        for place, way in enumerate(ways.values()):
            way(films[start])
            for data in films[start : start + 10]:
                started = time.perf_counter()
                way(data)
                taken[place].append(time.perf_counter() - started)
    return taken


def throughput(films: list[bytes], engines: dict[str, Engine]) -> None:
    """Compare each model alone with the first one, and `predict_many` of the last engine with its bound."""
    cores = available_cores()
    first, last = next(iter(engines)), list(engines)[-1]
    rule = engines[last].contract.input
    images = np.stack([load_input(data, rule) for data in films])
    decode = list[float]()
    model = {name: list[float]() for name in engines}
    many = list[float]()
    for _ in range(3):
        decode.append(seconds(lambda: decode_all(films, rule, cores)))
        for name, engine in engines.items():
            model[name].append(seconds(partial(run_batches, engine, images)))
        many.append(seconds(lambda: drain(engines[last].predict_many(encoded_films(films)))))
    each = len(films)
    bound = statistics.median(decode) + statistics.median(model[last])
    title("throughput", "ms per film", "films/s", "ratio")
    row("decode and resize, all cores", *pace(statistics.median(decode) / each), "")
    for name, times in model.items():
        gain = statistics.median(model[first]) / statistics.median(times)
        ratio = "" if name == first else f"{gain:.2f} x {first}"
        row(f"model alone, {name}, batches of 8", *pace(statistics.median(times) / each), ratio)
    row(f"bound: decode and {last} together", *pace(bound / each), "")
    reached = bound / statistics.median(many)
    row(f"Engine.predict_many, {last}", *pace(statistics.median(many) / each), f"{100 * reached:.0f} % of the bound")


def memory(films: list[bytes], bundle: Path, many: int, folder: Path, name: str) -> None:
    """Peak resident memory of `pneumoscope predict` on a small and a large folder."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    for number, data in enumerate(films):
        (source / f"{number}.jpeg").write_bytes(data)
    title(f"memory of pneumoscope predict, {name}", "peak MB", "films/s")
    for count in sorted({min(100, many), many}):
        links = folder / f"{name}-{count}"
        links.mkdir()
        for number in range(count):
            (links / f"{number:05d}.jpeg").symlink_to(source / f"{number % len(films)}.jpeg")
        started = time.perf_counter()
        arguments = ["predict", "--bundle", str(bundle), str(links), "--format", "json", "--quiet"]
        peak = peak_memory(arguments, may_reject=True)
        row(f"{count:,} full-size films", f"{peak:.0f}", f"{count / (time.perf_counter() - started):.0f}")


def start_up(data: bytes, predictions: dict[str, list[str]], folder: Path) -> None:
    """Time cold processes: `--help`, and `predict` of one film with each set of options."""
    path = folder / "film.jpeg"
    path.write_bytes(data)
    title("cold process", "median s")
    commands = {"--help": ["--help"]} | {name: ["predict", str(path), *more] for name, more in predictions.items()}
    for name, arguments in commands.items():
        taken = [seconds(partial(cold, arguments)) for _ in range(7)]
        row(f"pneumoscope {name}", f"{statistics.median(taken):.2f}")


def cold(arguments: list[str]) -> None:
    """Run one `pneumoscope` command, and discard its output."""
    command = [sys.executable, "-m", "pneumoscope", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def decode_all(films: list[bytes], rule: InputRule, cores: int) -> None:
    """Decode and resize the films on all cores, without a model."""
    with ThreadPoolExecutor(cores) as pool:
        drain(pool.map(lambda data: load_input(data, rule), films))


def run_batches(engine: Engine, images: np.ndarray) -> None:
    """Run the model alone, on batches of 8."""
    for start in range(0, len(images), 8):
        engine.run(images[start : start + 8])


def encoded_films(films: Iterable[bytes]) -> Iterable[ImageFile]:
    """Films in the form that `predict_many` takes."""
    return (ImageFile(name="", read=BytesIO(data).read) for data in films)


def drain(items: Iterable[object]) -> None:
    """Consume an iterable."""
    for _ in items:
        pass


def seconds(work: Callable[[], object]) -> float:
    """How many seconds the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pace(each: float) -> tuple[str, str]:
    """Milliseconds per film and films per second, from seconds per film."""
    return f"{each * 1e3:.1f}", f"{1 / each:.1f}"


def title(what: str, *columns: str) -> None:
    """Print a table's heading."""
    print(f"\n{what:<52}" + "".join(f"{column:>18}" for column in columns), flush=True)


def row(name: str, *values: str) -> None:
    """Print a table's row."""
    print(f"{name:<52}" + "".join(f"{value:>18}" for value in values), flush=True)


if __name__ == "__main__":
    main()
