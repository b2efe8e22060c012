import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import write_architecture_docs
import write_cli_docs
from pneumoscope.cli.app import app
from pneumoscope.models import SHIPPED
from samples import REPOSITORY

PACKAGE = REPOSITORY / "src" / "pneumoscope"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(REPOSITORY), "ls-files"], capture_output=True, text=True, check=True)
    return [REPOSITORY / name for name in listed.stdout.splitlines()]


def test_the_cli_document_equals_the_commands_own_help() -> None:
    document = (REPOSITORY / "docs" / "reference" / "cli.md").read_text()
    assert document == write_cli_docs.render(), "run `make docs`"


def test_no_option_states_its_range_twice() -> None:
    ranges = re.compile(r"\d+ to \d+\b|\b(?:more|less) than \d[^.]*\.|\bat (?:least|most) \d[^.]*\.", re.IGNORECASE)
    rows = [row for row in write_cli_docs.render().splitlines() if row.startswith("|")]
    assert sum(bool(ranges.search(row)) for row in rows) > 50
    assert [row for row in rows if len(ranges.findall(row)) > 1] == []


def test_no_option_states_its_default_twice() -> None:
    rows = [row.split(" | ") for row in write_cli_docs.render().splitlines() if row.startswith("| `")]
    assert [what for _, what, default in rows if "by default" in what and default.startswith("`")] == []


@pytest.mark.parametrize("path", write_architecture_docs.DOCUMENTS, ids=lambda path: path.name)
def test_the_pages_of_the_architecture_are_made_from_the_code(path: Path) -> None:
    assert path.read_text() == write_architecture_docs.DOCUMENTS[path](), "run `make docs`"


def test_the_list_of_source_files_is_complete() -> None:
    listed = (REPOSITORY / "docs" / "concepts" / "source-files.md").read_text()
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in SOURCES} - {"__init__", "__main__"}
    assert {line[4:-1] for line in listed.splitlines() if line.startswith("## `")} == rooms | {
        "benchmarks/",
        "scripts/",
    }
    for path in [*SOURCES, *(REPOSITORY / "benchmarks").glob("*.py"), *(REPOSITORY / "scripts").glob("*.py")]:
        if path.parent != PACKAGE and path.name != "__init__.py":
            assert f"{path.name}` |" in listed, path


def test_the_picture_of_the_rooms_holds_for_the_real_imports() -> None:
    """What the architecture page says of the picture: imports lead to lower layers, but for one exception."""
    layers = write_architecture_docs.layers()
    depth = {room: number for number, layer in enumerate(layers) for room in layer}
    imports = write_architecture_docs.imports()
    upward = {(room, other) for room in imports for other in imports[room] if depth[other] <= depth[room]}
    assert upward == {("aws", "cli")}
    assert len(imports) == len(depth) > 20
    picture = (REPOSITORY / "docs" / "images" / "rooms.svg").read_text()
    heights = {room: int(re.findall(rf'y="(\d+)">{room}<', picture)[0]) for room in depth}
    assert sorted(depth, key=depth.__getitem__) == sorted(depth, key=heights.__getitem__)


def test_the_picture_of_the_data_flow_holds_for_the_command_line() -> None:
    root: Any = get_command(app)
    imports = write_architecture_docs.imports()
    for step in write_architecture_docs.FLOW:
        command: Any = root
        for word in step.command.split():
            command = command.commands[word]
        assert step.room in imports["cli"], step


def test_every_recipe_is_in_the_documentation() -> None:
    listed = (REPOSITORY / "docs" / "how-to" / "train.md").read_text()
    for recipe in (PACKAGE / "recipes").glob("*.toml"):
        assert f"`{recipe.stem}`" in listed


def test_system_packages_are_announced_before_they_are_installed() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert "`make test` installs Debian's package `chromium`" in readme
    steps = subprocess.run(["make", "--dry-run", "browser"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert 0 < steps.stdout.index("installing Debian's package") < steps.stdout.index("apt-get update")


def test_locks_and_build_settings_name_no_address() -> None:
    for path in tracked():
        if path.name.endswith((".lock", ".toml", "Makefile")):
            text = re.sub(r"^\[project\.urls\]\n(?:.+\n)*", "", path.read_text(), flags=re.MULTILINE)
            assert "://" not in text, path
    assert not (REPOSITORY / "uv.lock").exists() or REPOSITORY / "uv.lock" not in tracked()
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert len(re.findall(r"^[a-z0-9-]+==", lock, re.MULTILINE)) > 50
    assert lock.count("--hash=sha256:") > 500


#: The shipped bundle's model and its golden cases, which are drawings.
SHIPPED_FILES = {
    "model.onnx",
    "golden/bacteria-grey.jpeg",
    "golden/bacteria.tiff",
    "golden/cut-short.jpeg",
    "golden/normal-large.jpeg",
    "golden/normal-rgb.jpeg",
    "golden/virus-12in16bit.png",
    "golden/virus-8bit.png",
    "golden/virus-monochrome1.dcm",
}


def test_no_image_or_model_is_tracked_but_the_admitted_ones() -> None:
    images = {".jpeg", ".jpg", ".png", ".tif", ".tiff", ".dcm", ".zip", ".onnx", ".safetensors", ".ckpt"}
    admitted = {PACKAGE / "models" / SHIPPED / name for name in SHIPPED_FILES}
    admitted.add(REPOSITORY / "docs" / "images" / "page.png")  # shows phantoms only: see scripts/draw_page.py
    assert not [path for path in tracked() if path.suffix.lower() in images and path not in admitted]


def test_ci_runs_the_readmes_test_command() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    commands = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert "make test" in (REPOSITORY / "README.md").read_text()


PRINTS = {"print", "sys.stdout.write", "sys.stderr.write"}
EXITS = {"exit", "quit", "sys.exit", "SystemExit", "os._exit"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no module docstring"
    if path.parent.name == "cli":
        return
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if path.name == "parallel.py":
        calls.remove("os._exit")  # a worker ends with its parent
    assert not calls & (PRINTS | EXITS)


#: The modules that are allowed to change an image's size, and why. All others go through `imaging`.
RESIZERS = {
    "imaging/film.py": "the one preprocessing",
    "imaging/raster.py": "opens images",
    "imaging/jpeg.py": "decodes a JPEG at a smaller scale",
    "imaging/colour.py": "samples a picture's colours",
    "imaging/dicom/pixels.py": "decodes a DICOM's RGB JPEG without converting its colours, at full scale",
    "phantom.py": "draws films",
    "dataset/stress.py": "writes altered films",
    "training/augment.py": "augments the model's input",
    "export/faults.py": "makes faulty films for the gate",
    "export/pictures.py": "draws pictures that are not films",
    "export/kinds.py": "draws more of them",
}
RESIZING = {"resize", "thumbnail", "draft", "reduce_size", "interpolate", "resized_crop", "zoom", "Resize", "Normalize"}
#: ImageNet's means and standard deviations, per channel and averaged, on scales of 1 and 255.
CONSTANTS = {0.485, 0.456, 0.406, 0.229, 0.224, 0.225, 0.449, 0.226, 123.675, 116.28, 103.53, 58.395, 57.12, 57.375}
#: The modules that are allowed to turn bytes into the model's input. Command line, service and cloud use the engine.
READERS = {
    "imaging/film.py",
    "engine/core.py",
    "training/inputs.py",
    "training/folds.py",  # for the stress inputs of cross-validation
    "explain.py",
    "dataset/likeness.py",  # for the perceptual hash
    "audit/reading.py",  # for thumbnails
    "audit/page.py",
}


def preprocessing_faults(name: str, source: str) -> list[str]:
    """What a file does that is reserved for the one preprocessing."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            dotted = isinstance(node.func, ast.Attribute)
            if dotted and called in RESIZING and name not in RESIZERS:
                faults.append(f"{name}:{node.lineno} calls {called}")
            if called in ("to_input", "load_input", "read_for_input") and name not in READERS:
                faults.append(f"{name}:{node.lineno} calls {called}")
            if ast.unparse(node.func) == "Image.open" and name not in RESIZERS:
                faults.append(f"{name}:{node.lineno} opens an image without `imaging`")
        if isinstance(node, ast.Constant) and node.value in CONSTANTS and name != "contract.py":
            faults.append(f"{name}:{node.lineno} holds {node.value}")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and name != "backbone/network.py":
            faults += [f"{name}:{node.lineno} divides by {ast.unparse(node.right)}"] * _is_full_scale(node.right)
    return faults


def _is_full_scale(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (255, 127.5)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_one_place_resizes_and_one_normalises(path: Path) -> None:
    """A module must not bring a second preprocessing, which would soon differ from the first."""
    assert not preprocessing_faults(path.relative_to(PACKAGE).as_posix(), path.read_text())


@pytest.mark.parametrize(
    "line",
    [
        "image.resize((224, 224))",
        "torch.nn.functional.interpolate(image, size=224)",
        "v2.Normalize([0.5], [0.5])",
        "mean = [0.485, 0.456, 0.406]",
        "image = pixels / 255",
        "to_input(luma, rule)",
        "Image.open(path)",
    ],
)
def test_a_second_preprocessing_is_detected(line: str) -> None:
    assert preprocessing_faults("server/app.py", line)


def test_every_exception_to_the_rule_is_an_existing_file() -> None:
    assert all((PACKAGE / name).is_file() for name in RESIZERS.keys() | READERS)
