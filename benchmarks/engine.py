"""The engine beside the plain way: one table, all of it measured in this one run.

    python benchmarks/engine.py [--films originals-160.zip] [--run RUN --data DATASET] [--many N]

Without --run, a ResNet-50 at 224 px is trained on a few phantoms for four epochs from random weights: speed does
not depend on what it learnt. Without --films, phantoms of the originals' sizes are used. --many is the size of
the larger folder of the memory test.

The plain way is the capstone's: Pillow to RGB, torchvision's resize, tensor and normalisation, PyTorch eager in
fp32 on all cores. The bound of `predict_many` is the time that decoding and the model, each measured alone with
all cores at work, take together.
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
import torch
from PIL import Image
from torchvision.transforms import v2

from pneumoscope.contract import InputRule
from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.engine import Encoded, Engine
from pneumoscope.errors import BundleError
from pneumoscope.export import export, load_network
from pneumoscope.imaging import load_input
from pneumoscope.parallel import available_cores
from pneumoscope.phantom import FINDINGS, encode_jpeg, film, write_archive_folder
from pneumoscope.training.config import load_recipe, make_config
from pneumoscope.training.fit import train

SIZES = [(1357, 1654), (760, 1136), (808, 1272)]  # median rows and columns of normal, bacterial, viral originals


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, help="ZIP of JPEG films")
    parser.add_argument("--run", type=Path, help="a finished ResNet-50 run")
    parser.add_argument("--data", type=Path, help="its data set")
    parser.add_argument("--many", type=int, default=10_000)
    given = parser.parse_args()
    films, what = read_films(given.films)
    print(f"{len(films)} {what}, {available_cores()} cores", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, data = (given.run, given.data) if given.run else train_anew(folder)
        for precision in ("fp32", "int8"):
            export_bundle(run, data, folder / precision, precision)
        latency(films, run, folder)
        throughput(films, folder)
        for precision in ("int8", "fp32"):
            memory(films, folder / precision, given.many, folder)
        start_up(films[0], folder)


def read_films(path: Path | None) -> tuple[list[bytes], str]:
    """Full-size films as bytes, and what they are."""
    if path is None:
        made = [
            encode_jpeg(film(finding, patient=patient, size=size))
            for patient in range(1, 21)
            for finding, size in zip(FINDINGS, SIZES, strict=True)
        ]
        return made, "phantoms at the originals' sizes"
    with zipfile.ZipFile(path) as archive:
        names = sorted(each for each in archive.namelist() if each.endswith(".jpeg"))
        return [archive.read(each) for each in names], f"films of {path.name}"


def train_anew(folder: Path) -> tuple[Path, Path]:
    """A ResNet-50 that has seen a few phantoms, and its data set."""
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
    """Export, and say how int8 compares."""
    try:
        done = export(run, load_dataset(data), out, precision="int8" if precision == "int8" else "fp32")
    except BundleError as failure:
        raise SystemExit(f"{precision}: {failure}") from failure
    if (figures := done.quantisation) is not None:
        print(
            f"int8: agreement with fp32 {figures.agreement:.1%} of {figures.films} validation films, macro-F1 "
            f"{figures.macro_f1:.3f} against {figures.macro_f1_fp32:.3f}, {len(figures.kept_fp32)} layers in fp32",
            flush=True,
        )


def latency(films: list[bytes], run: Path, folder: Path) -> None:
    """1: one film, bytes to decision, the ways in turn."""
    network = load_network(run)
    transform = plain_transform()

    def plain(data: bytes) -> None:
        with Image.open(BytesIO(data)) as image:
            tensor = transform(image.convert("RGB"))[:1]
        with torch.no_grad():
            network.body(tensor[None]).softmax(dim=1)

    ways: dict[str, Callable[[bytes], object]] = {"plain way: Pillow RGB, torchvision, PyTorch eager": plain}
    for precision in ("fp32", "int8"):
        ways[f"Engine.predict, {precision}"] = Engine.load(folder / precision).predict
    taken = in_turn(ways, films)
    medians = [statistics.median(times) for times in taken]
    title("one film, decode included", "median ms", "95 % within ms", "of the plain way")
    for name, times, median in zip(ways, taken, medians, strict=True):
        row(name, f"{median * 1e3:.1f}", f"{np.quantile(times, 0.95) * 1e3:.1f}", f"{median / medians[0]:.2f}")


def plain_transform() -> v2.Compose:
    """The capstone's: torchvision, for three channels."""
    return v2.Compose(
        [
            v2.Resize((224, 224)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def in_turn(ways: dict[str, Callable[[bytes], object]], films: list[bytes]) -> list[list[float]]:
    """Seconds of each way on each film, after a warm-up.

    The ways take turns in blocks, so that a busy minute hurts all of them, and threads of one do not wait
    beside the next.
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


def throughput(films: list[bytes], folder: Path) -> None:
    """2 and 3: predict_many against its bound, and int8 against fp32."""
    cores = available_cores()
    engines = {precision: Engine.load(folder / precision) for precision in ("fp32", "int8")}
    rule = engines["int8"].contract.input
    images = np.stack([load_input(data, rule) for data in films])
    decode = list[float]()
    model = {name: list[float]() for name in engines}
    many = list[float]()
    for _ in range(3):
        decode.append(seconds(lambda: decode_all(films, rule, cores)))
        for name, engine in engines.items():
            model[name].append(seconds(partial(run_batches, engine, images)))
        many.append(seconds(lambda: drain(engines["int8"].predict_many(named(films)))))
    each = len(films)
    bound = statistics.median(decode) + statistics.median(model["int8"])
    title("throughput", "ms a film", "films/s", "ratio")
    row("decode and resize, all cores", *pace(statistics.median(decode) / each), "")
    for name, times in model.items():
        gain = statistics.median(model["fp32"]) / statistics.median(times)
        row(f"model alone, {name}, batches of 8", *pace(statistics.median(times) / each), f"{gain:.2f} x fp32")
    row("bound: decode and int8 model together", *pace(bound / each), "")
    reached = bound / statistics.median(many)
    row("Engine.predict_many, int8", *pace(statistics.median(many) / each), f"{reached:.0%} of the bound")


def memory(films: list[bytes], bundle: Path, many: int, folder: Path) -> None:
    """4: peak resident memory of `pneumoscope predict` on a small and a large folder."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    for number, data in enumerate(films):
        (source / f"{number}.jpeg").write_bytes(data)
    title(f"memory of pneumoscope predict, {bundle.name}", "peak MB", "films/s")
    for count in (100, many):
        links = folder / f"{bundle.name}-{count}"
        links.mkdir()
        for number in range(count):
            (links / f"{number:05d}.jpeg").symlink_to(source / f"{number % len(films)}.jpeg")
        started = time.perf_counter()
        peak = peak_of(["predict", "--bundle", str(bundle), str(links), "--format", "json", "--quiet"])
        row(f"{count:,} full-size films", f"{peak:.0f}", f"{count / (time.perf_counter() - started):.0f}")


def start_up(data: bytes, folder: Path) -> None:
    """5: cold processes."""
    path = folder / "film.jpeg"
    path.write_bytes(data)
    title("cold process", "median s")
    commands = {
        "pneumoscope --help": ["--help"],
        "pneumoscope predict, one film, int8": ["predict", "--bundle", str(folder / "int8"), str(path)],
        "pneumoscope predict, one film, fp32": ["predict", "--bundle", str(folder / "fp32"), str(path)],
    }
    for name, arguments in commands.items():
        row(name, f"{statistics.median(seconds(partial(cold, arguments)) for _ in range(7)):.2f}")


# A child's peak counts from its parent's memory at the fork, and this process is large: a small one stands between.
_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def peak_of(arguments: list[str]) -> float:
    """Peak resident memory in MB of one command of ours."""
    command = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "pneumoscope", *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def cold(arguments: list[str]) -> None:
    """One command of ours, output to nowhere."""
    command = [sys.executable, "-m", "pneumoscope", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def decode_all(films: list[bytes], rule: InputRule, cores: int) -> None:
    """Decoding and resizing alone, all cores at work."""
    with ThreadPoolExecutor(cores) as pool:
        drain(pool.map(lambda data: load_input(data, rule), films))


def run_batches(engine: Engine, images: np.ndarray) -> None:
    """The model alone."""
    for start in range(0, len(images), 8):
        engine.run(images[start : start + 8])


def named(films: Iterable[bytes]) -> Iterable[Encoded]:
    """Films as the engine takes them."""
    return (Encoded(name="", read=BytesIO(data).read) for data in films)


def drain(items: Iterable[object]) -> None:
    """Use them up."""
    for _ in items:
        pass


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pace(each: float) -> tuple[str, str]:
    """Milliseconds a film, films a second."""
    return f"{each * 1e3:.1f}", f"{1 / each:.1f}"


def title(what: str, *columns: str) -> None:
    """A part's heading."""
    print(f"\n{what:<52}" + "".join(f"{column:>18}" for column in columns), flush=True)


def row(name: str, *values: str) -> None:
    """A line of the table."""
    print(f"{name:<52}" + "".join(f"{value:>18}" for value in values), flush=True)


if __name__ == "__main__":
    main()
