"""Recipes: values of a training configuration, shipped with the package or read from TOML files."""

import os
import shutil
import sys
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pneumoscope.documents import first_problem
from pneumoscope.errors import UsageError
from pneumoscope.settings.training import TrainConfig


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("pneumoscope") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(recipe: str) -> dict[str, Any]:
    """The values of a shipped recipe by name, or of a TOML file by path.

    Raises:
        UsageError: there is no such recipe or file, or it is not TOML.
    """
    shipped = recipe in recipe_names()
    if not shipped and not Path(recipe).is_file():
        raise UsageError(f"--recipe {recipe!r} is neither a file nor one of: {', '.join(recipe_names())}.")
    path = resources.files("pneumoscope") / "recipes" / f"{recipe}.toml" if shipped else Path(recipe)
    try:
        return {"recipe": Path(recipe).stem, **tomllib.loads(path.read_text(encoding="utf-8"))}
    except UnicodeDecodeError as failure:
        raise UsageError(f"--recipe {recipe} is not text in UTF-8; give a TOML file.") from failure
    except tomllib.TOMLDecodeError as failure:
        raise UsageError(f"--recipe {recipe} is not valid TOML: {failure}.") from failure


def make_config(values: dict[str, Any], changes: dict[str, Any]) -> TrainConfig:
    """Build a configuration from a recipe's values and changes to them (None leaves a value unchanged).

    Raises:
        UsageError: a value is missing, unknown or out of range.
    """
    merged = values | {name: value for name, value in changes.items() if value is not None}
    try:
        return TrainConfig.model_validate(merged)
    except ValidationError as failure:
        raise UsageError(f"training configuration: {first_problem(failure)}.") from failure


def check_compiler(config: TrainConfig, *, resume: bool = False) -> None:
    """Refuse compiled training where torch.compile would find no C++ compiler.

    Raises:
        UsageError: there is none.
    """
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX") or usual
    if config.compiled and shutil.which(compiler) is None:
        how = " (Debian: apt-get install g++)" if sys.platform == "linux" else ""
        otherwise = "" if resume else ", or pass --no-compiled"
        raise UsageError(
            f"compiled training needs a C++ compiler, and {compiler} is not found; install it{how}{otherwise}."
        )
