"""Training throughput compared with a bare loop of the same network on one constant batch, in one run.

    python benchmarks/training.py

The bare loop (forward, backward and step on one batch in memory) runs before and after our training, and the mean of
the two is the bound. Validation between epochs is not counted.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from typing_extensions import override

from pneumoscope.backbone import build
from pneumoscope.dataset import PrepareConfig, load_dataset, prepare
from pneumoscope.phantom import write_archive_folder
from pneumoscope.progress import Listener
from pneumoscope.settings.training import TrainConfig
from pneumoscope.training.config import make_config
from pneumoscope.training.fit import train


class Stopwatch(Listener):
    """Times per epoch: the end of the previous one (validation included), then the end of every batch."""

    def __init__(self) -> None:
        self.epochs: list[list[float]] = []

    @override
    def advance(self, count: int) -> None:
        if self.epochs:
            self.epochs[-1].append(time.perf_counter())

    @override
    def say(self, line: str) -> None:
        if line.startswith("epoch"):
            self.epochs.append([time.perf_counter()])

    def steps_per_second(self) -> float:
        """Steps per second of all epochs but the first, from the epoch's start (loader included) to its last batch."""
        timed = [epoch for epoch in self.epochs if len(epoch) > 1]
        return sum(len(epoch) - 1 for epoch in timed) / sum(epoch[-1] - epoch[0] for epoch in timed)


def bare(config: TrainConfig, steps: int) -> float:
    """Steps per second of the bare loop."""
    network = build(config.arch, classes=3, size=config.size)[0].train()
    optimizer = torch.optim.SGD(network.parameters(), lr=config.lr, momentum=config.momentum)
    images = torch.randint(0, 256, (config.batch_size, 1, config.size, config.size), dtype=torch.uint8)
    labels = torch.randint(0, 3, (config.batch_size,))
    started = 0.0
    for step in range(steps + 3):
        if step == 3:
            started = time.perf_counter()
        torch.autograd.backward(cross_entropy(network(images), labels))
        optimizer.step()
        optimizer.zero_grad()
    return steps / (time.perf_counter() - started)


def compare(arch: str, size: int, augment: str, data: Path, folder: Path, epochs: int) -> None:
    """Measure one network, and print its row."""
    recipe = {"recipe": "benchmark", "arch": arch, "size": size, "weights": "none", "lr": 0.01, "epochs": epochs}
    config = make_config(recipe | {"augment": augment}, {})
    dataset, watch = load_dataset(data), Stopwatch()
    before = bare(config, 20)
    train(dataset, config, folder / f"{arch}-{size}-{augment}", listener=watch)
    bound = (before + bare(config, 20)) / 2
    ours, batch = watch.steps_per_second(), config.batch_size
    print(f"{arch:<14}{size:>5}  {augment:<8}{bound * batch:>12.1f}{ours * batch:>12.1f}{ours / bound:>8.2f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_archive_folder(folder / "films", count=arguments.films, overwrite=False)
        prepare([folder / "films"], folder / "data", PrepareConfig())
        print(f"{'network':<14}{'size':>5}  {'augment':<8}{'bare img/s':>12}{'ours img/s':>12}{'ratio':>8}")
        for arch, size, augment in (
            ("regnetx_002", 128, "none"),
            ("resnet18", 128, "none"),
            ("regnetx_002", 128, "light"),
            ("regnetx_002", 128, "robust"),
        ):
            compare(arch, size, augment, folder / "data", folder, arguments.epochs)


if __name__ == "__main__":
    main()
