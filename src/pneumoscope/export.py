"""From a finished run to a bundle: ONNX, parity with PyTorch, golden cases, contract."""

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pneumoscope import __version__
from pneumoscope.backbone import Network, build
from pneumoscope.contract import (
    CONTRACT_FILE,
    DISCLAIMER,
    GREY_IMAGENET,
    Calibration,
    Contract,
    Decision,
    InputRule,
    Provenance,
    save_contract,
)
from pneumoscope.dataset import Dataset
from pneumoscope.engine import GOLDEN_FILE, GOLDEN_FOLDER, MODEL_FILE, Engine, verify
from pneumoscope.errors import BundleError, RunError
from pneumoscope.files import sha256_of, whole_directory, write_json
from pneumoscope.imaging import Luma, load_input
from pneumoscope.phantom import FINDINGS, encode_jpeg, film
from pneumoscope.training.config import TrainConfig
from pneumoscope.training.run import RunCard, load_card, load_config, load_weights

#: Largest difference of a probability between ONNX Runtime and PyTorch that is accepted.
PARITY_TOLERANCE = 1e-4
PARITY_FILMS = 64
_OPSET = 18


class _Outputs(nn.Module):
    """What the graph computes: logits and embedding."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.forward_with_embedding(image)


def export(run: Path, dataset: Dataset, out: Path, *, name: str | None = None, overwrite: bool = False) -> float:
    """Write the bundle of a finished run; return the largest difference from PyTorch that was seen.

    The bundle appears only if ONNX Runtime's probabilities equal PyTorch's within
    `PARITY_TOLERANCE` on up to `PARITY_FILMS` validation films, spread over the split.

    Args:
        run: a finished run directory.
        dataset: the data set the run was trained on.
        out: the bundle folder to make.
        name: the model's name; by default the run's folder name.
        overwrite: replace what lies at `out`.

    Raises:
        RunError: not a finished run, or of another data set.
        BundleError: ONNX Runtime does not reproduce the network.
    """
    config, card = load_config(run), load_card(run)
    if card.dataset != dataset.fingerprint:
        raise RunError(f"{dataset.root} is not the data set that {run} was trained on; give that one ({card.data}).")
    network = load_network(run)
    rule = InputRule.squash(config.size)
    with whole_directory(out, overwrite=overwrite, holding=CONTRACT_FILE) as folder:
        _write_onnx(network, config.size, folder / MODEL_FILE)
        contract = _contract(name or run.resolve().name, config, card, rule, folder)
        save_contract(contract, folder)
        engine = Engine.load(folder)
        difference = _parity(network, engine, dataset, rule)
        _write_golden(engine, folder)
        save_contract(contract.model_copy(update={"files": _hashes(folder)}), folder)
        verify(folder)
    return difference


def load_network(run: Path) -> Network:
    """The trained network of a finished run, in evaluation mode, on the CPU.

    Raises:
        RunError: the run has no weights, or they do not fit its configuration.
    """
    config, card = load_config(run), load_card(run)
    weights = load_weights(run)
    network, _ = build(config.arch, classes=len(card.classes), size=config.size)
    try:
        network.load_state_dict(weights)
    except RuntimeError as failure:
        raise RunError(f"{run}: the weights do not fit {config.arch!r}; train again.") from failure
    return network.eval()


def _write_onnx(network: Network, size: int, path: Path) -> None:
    example = torch.zeros(2, 1, size, size, dtype=torch.uint8)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            torch.onnx.export(
                _Outputs(network).eval(),
                (example,),
                str(path),
                input_names=["image"],
                output_names=["logits", "embedding"],
                dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
                opset_version=_OPSET,
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)


def _contract(name: str, config: TrainConfig, card: RunCard, rule: InputRule, folder: Path) -> Contract:
    return Contract(
        schema_version=1,
        name=name,
        version=__version__,
        intended_use=DISCLAIMER,
        classes=card.classes,
        groups=card.groups,
        input=rule,
        normalisation=GREY_IMAGENET,
        calibration=Calibration(temperature=1.0),
        decision=Decision(answer_from=0.0),
        provenance=Provenance(
            arch=config.arch,
            recipe=config.recipe,
            weights=card.initial_weights,
            dataset=card.dataset,
            commit=card.commit,
            versions=card.versions,
        ),
        files=_hashes(folder),
    )


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CONTRACT_FILE)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _parity(network: Network, engine: Engine, dataset: Dataset, rule: InputRule) -> float:
    films = dataset.split("val")
    chosen = films[:: max(1, len(films) // PARITY_FILMS)][:PARITY_FILMS]
    images = np.stack([load_input(dataset.read(each), rule, limits=dataset.limits) for each in chosen])
    difference = float(np.abs(engine.run(images)[0] - _torch_probabilities(network, images)).max())
    if not difference <= PARITY_TOLERANCE:
        raise BundleError(
            f"ONNX Runtime differs from PyTorch by {difference:.2g} on {len(chosen)} validation films; "
            f"at most {PARITY_TOLERANCE:g} is accepted, so no bundle was written."
        )
    return difference


def _torch_probabilities(network: Network, images: Luma) -> NDArray[np.float64]:
    with torch.no_grad():
        logits = torch.cat([network(part) for part in torch.split(torch.from_numpy(images), 16)])
    return logits.double().softmax(dim=1).numpy()


def _write_golden(engine: Engine, folder: Path) -> None:
    """Phantoms in several encodings, and what this engine says of them."""
    golden = folder / GOLDEN_FOLDER
    golden.mkdir()
    cases = []
    for file, data in _golden_films().items():
        (golden / file).write_bytes(data)
        prediction = engine.predict(data, name=file)
        cases.append({"file": file, "probabilities": prediction.probabilities})
    write_json(golden / GOLDEN_FILE, {"schema_version": 1, "cases": cases})


def _golden_films() -> dict[str, bytes]:
    bacteria, normal, virus = (film(finding, patient=1, size=(420, 500)) for finding in FINDINGS)
    deep = Image.fromarray(virus.astype(np.uint16) * 16)
    return {
        "bacteria-grey.jpeg": encode_jpeg(bacteria),
        "normal-rgb.jpeg": _encode(Image.fromarray(normal).convert("RGB"), "JPEG"),
        "normal-large.jpeg": encode_jpeg(film("normal", patient=2, size=(1200, 1400)), progressive=True),
        "virus-8bit.png": _encode(Image.fromarray(virus), "PNG"),
        "virus-12in16bit.png": _encode(deep, "PNG"),
    }


def _encode(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()
