import ast
import re
import subprocess
from pathlib import Path

import pytest

import write_cli_docs
from pneumoscope.models import SHIPPED
from samples import REPOSITORY

PACKAGE = REPOSITORY / "src" / "pneumoscope"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(REPOSITORY), "ls-files"], capture_output=True, text=True, check=True)
    return [REPOSITORY / name for name in listed.stdout.splitlines()]


def test_the_cli_document_is_the_commands_own_help() -> None:
    document = (REPOSITORY / "docs" / "cli.md").read_text()
    assert document == write_cli_docs.render(), "run `make docs`"


def test_the_readme_lists_every_file() -> None:
    listed = (REPOSITORY / "README.md").read_text()
    for path in [*SOURCES, *(REPOSITORY / "benchmarks").glob("*.py"), *(REPOSITORY / "docs").glob("*.md")]:
        if path.name not in ("__init__.py", "__main__.py"):
            assert path.name in listed, f"{path.name} is not in the README's list of files"


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for document in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert "://" in target or (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_recipe_is_in_the_readme() -> None:
    listed = (REPOSITORY / "README.md").read_text()
    for recipe in (PACKAGE / "recipes").glob("*.toml"):
        assert f"`{recipe.stem}`" in listed


def test_the_lock_names_no_address() -> None:
    for path in tracked():
        if path.name.endswith((".lock", ".toml", "Makefile")):
            assert "://" not in path.read_text(), path
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


def test_no_image_is_tracked() -> None:
    images = {".jpeg", ".jpg", ".png", ".tif", ".tiff", ".dcm", ".zip", ".onnx", ".safetensors", ".ckpt"}
    shipped = {PACKAGE / "models" / SHIPPED / name for name in SHIPPED_FILES}
    assert not [path for path in tracked() if path.suffix.lower() in images and path not in shipped]


def test_ci_runs_the_readmes_test_command() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    commands = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert "make test" in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no module docstring"
    if path.parent.name == "cli":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "sys.exit", "exit", "quit"), f"{path.name}:{node.lineno} calls {called}"


#: Who may call what changes an image's size, and why. Everything else goes through `imaging`.
RESIZERS = {
    "imaging/film.py": "the one preprocessing",
    "imaging/raster.py": "opens images",
    "imaging/jpeg.py": "decodes a JPEG at a smaller scale",
    "imaging/colour.py": "samples a picture's colours",
    "imaging/dicom/pixels.py": "decodes a DICOM's JPEG to luma alone, at full scale",
    "phantom.py": "draws films",
    "dataset/stress.py": "writes changed films",
    "training/augment.py": "changes the model's input on purpose",
    "export/faults.py": "likewise, for the gate",
    "export/pictures.py": "draws pictures that are no films",
}
RESIZING = {"resize", "thumbnail", "draft", "reduce_size", "interpolate", "resized_crop", "zoom", "Resize", "Normalize"}
#: ImageNet's means and deviations, by channel and averaged, of 1 and of 255.
CONSTANTS = {0.485, 0.456, 0.406, 0.229, 0.224, 0.225, 0.449, 0.226, 123.675, 116.28, 103.53, 58.395, 57.12, 57.375}
#: Who may turn bytes into the model's input. The command line, the server and the cloud go through the engine.
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
    """What a file does that only the one preprocessing may do."""
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
                faults.append(f"{name}:{node.lineno} opens an image past imaging")
        if isinstance(node, ast.Constant) and node.value in CONSTANTS and name != "contract.py":
            faults.append(f"{name}:{node.lineno} holds {node.value}")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and name != "backbone/network.py":
            faults += [f"{name}:{node.lineno} divides by {ast.unparse(node.right)}"] * _is_full_scale(node.right)
    return faults


def _is_full_scale(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (255, 127.5)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_one_place_resizes_and_one_normalises(path: Path) -> None:
    """Training, export, engine, command line and what is to come may not bring a second preprocessing."""
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
def test_a_second_preprocessing_is_noticed(line: str) -> None:
    assert preprocessing_faults("server/app.py", line)


def test_every_exception_to_the_rule_is_a_file() -> None:
    assert all((PACKAGE / name).is_file() for name in RESIZERS.keys() | READERS)
