"""Which bundle a command uses: the one given, else the one that ships with the package."""

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
    """The folder of the bundle to use. `shipped`: none was given, and this is the one that ships."""

    folder: Path
    shipped: bool

    def describe(self, contract: "Contract") -> str:
        """The model's name, version and origin, which every output shows."""
        return f"{contract.name} {contract.version} ({'ships with the package' if self.shipped else self.folder})"


def choose_bundle(given: Path | None) -> Choice:
    """The given bundle, else the shipped one. Containers and jobs of a platform must name theirs.

    Raises:
        UsageError: no bundle is given in a container or a job of a platform.
        BundleError: no bundle is given, and this installation ships none.
    """
    if given is not None:
        return Choice(folder=given, shipped=False)
    from pneumoscope.aws.job.container import provides_model_directory
    from pneumoscope.settings.option import BUNDLE_VARIABLE

    # Our container image sets the variable to /opt/ml/model. If it is emptied, the bundle that ships must not be used.
    if BUNDLE_VARIABLE in os.environ or provides_model_directory():
        raise UsageError(f"--bundle is missing; in a container or a job, pass --bundle or set {BUNDLE_VARIABLE}.")
    return Choice(folder=shipped_bundle(), shipped=True)


def refuse_bundles(paths: "Iterable[Path]") -> None:
    """Refuse a bundle among the arguments, where it belonged before it became an option.

    Raises:
        UsageError: one of the paths is a bundle.
    """
    from pneumoscope.contract import CONTRACT_FILE

    for path in paths:
        if os.path.isfile(path / CONTRACT_FILE):  # noqa: PTH113 (Path.is_file raises in a folder that is closed to us)
            raise UsageError(f"{path} is a bundle; pass it as --bundle {path}.")


class BundleCommand(SettingsCommand):
    """A command that refuses surplus arguments, and for a bundle among them names the option."""

    allow_extra_args = True  # refused below, with a clearer message than click's

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer's context is of a private module
        extra = super().parse_args(ctx, args)
        refuse_bundles(map(Path, extra))
        if extra:
            raise UsageError(f"unexpected argument {extra[0]!r}; see `{ctx.command_path} --help`.")
        return extra


class EvaluateCommand(BundleCommand):
    """`evaluate`, which once took the data set as an option: the old form is refused, and the message names the new."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if any(each.partition("=")[0] == "--data" for each in args):
            raise UsageError(
                "the data set is an argument and the bundle an option: "
                "pneumoscope evaluate DATASET --bundle BUNDLE --out REPORT."
            )
        return super().parse_args(ctx, args)
