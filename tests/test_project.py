import ast
import re
import subprocess
from pathlib import Path

import pytest

import write_cli_docs
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


def test_no_image_is_tracked() -> None:
    images = {".jpeg", ".jpg", ".png", ".tif", ".tiff", ".dcm", ".zip", ".onnx", ".safetensors", ".ckpt"}
    assert not [path for path in tracked() if path.suffix.lower() in images]


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


def test_one_place_resizes_and_one_normalises() -> None:
    """Training, export, engine and command line may not bring a second preprocessing."""
    for path in SOURCES:
        text = path.read_text()
        if path.name not in ("film.py", "phantom.py", "augment.py", "stress.py"):  # the others make other films
            assert not re.search(r"\.resize\(|interpolate\(|Image\.open", text), path
        if path.name not in ("contract.py", "backbone.py"):
            assert not re.search(r"0\.449|0\.226|0\.485|0\.229|/ ?255", text), path
