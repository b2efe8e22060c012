"""Which bundle a command works with: the one that is named, else the one that ships with the package."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from pneumoscope.cli.command import SettingsCommand
from pneumoscope.errors import UsageError
from pneumoscope.models import shipped_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pneumoscope.contract import Contract


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The folder of the bundle to work with, and whether it is the shipped one for want of another."""

    folder: Path
    shipped: bool

    def named(self, contract: "Contract") -> str:
        """The model in words, for every output: its name, its version, and where it comes from."""
        return f"{contract.name} {contract.version} ({'ships with the package' if self.shipped else self.folder})"


def choose_bundle(given: Path | None) -> Choice:
    """The bundle that is given, else the shipped one, except where the environment has to name one.

    Raises:
        UsageError: none is given in a container or a job of a platform.
        BundleError: none is given, and this installation has none.
    """
    if given is not None:
        return Choice(folder=given, shipped=False)
    from pneumoscope.aws.job.platform import provides_model_directory
    from pneumoscope.settings.option import BUNDLE_VARIABLE

    # Our image sets the variable: empty, it is a container whose bundle was forgotten.
    if BUNDLE_VARIABLE in os.environ or provides_model_directory():
        raise UsageError(f"--bundle is missing; in a container or a job, name the bundle, or set {BUNDLE_VARIABLE}.")
    return Choice(folder=shipped_bundle(), shipped=True)


def refuse_bundles(paths: "Iterable[Path]") -> None:
    """Refuse a bundle among arguments, where it was given before it became an option.

    Raises:
        UsageError: one of them is a bundle.
    """
    from pneumoscope.contract import CONTRACT_FILE

    for path in paths:
        if os.path.isfile(path / CONTRACT_FILE):  # noqa: PTH113 (Path.is_file raises in a folder that is closed to us)
            raise UsageError(f"{path} is a bundle; pass it as --bundle {path}.")


class BundleCommand(SettingsCommand):
    """Refuses arguments beyond the command's own, and says of a bundle where it belongs."""

    allow_extra_args = True  # refused here, in clearer words

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer's context is of a private module
        extra = super().parse_args(ctx, args)
        refuse_bundles(map(Path, extra))
        if extra:
            raise UsageError(f"unexpected argument {extra[0]!r}; see `{ctx.command_path} --help`.")
        return extra


class EvaluateCommand(BundleCommand):
    """Names the new form to those who use the old one, in which the data set was an option."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if any(each.partition("=")[0] == "--data" for each in args):
            raise UsageError(
                "the data set is an argument and the bundle an option: "
                "pneumoscope evaluate DATASET --bundle BUNDLE --out REPORT."
            )
        return super().parse_args(ctx, args)
