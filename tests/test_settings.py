"""The command line is made from the settings: every field becomes one option, with its help."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field
from typer.main import get_command
from typer.testing import CliRunner

from pneumoscope.cli.app import app
from pneumoscope.cli.command import SettingsCommand, parameters_of, read_settings
from pneumoscope.documents import Document
from pneumoscope.errors import UsageError
from pneumoscope.settings.data import Prepare, PrepareConfig
from pneumoscope.settings.option import Spelling
from pneumoscope.settings.training import CrossValidate, Train, TrainConfig


def settings_commands() -> dict[str, SettingsCommand]:
    """The commands that are made from settings, by name."""
    root = get_command(app).commands  # type: ignore[attr-defined]
    inner = [(f"{group} {name}", each) for group in ("data", "aws") for name, each in root[group].commands.items()]
    return {name: each for name, each in [*root.items(), *inner] if isinstance(each, SettingsCommand)}


def test_every_option_has_help_and_names_of_its_own() -> None:
    commands = settings_commands()
    assert {"train", "cross-validate", "export", "predict", "evaluate", "serve", "data prepare", "aws train"} <= set(
        commands
    )
    for name, command in commands.items():
        names = [option for each in command.params for option in (*each.opts, *each.secondary_opts)]
        assert len(names) == len(set(names)), name
        for each in command.params:
            assert each.help, f"{name} {each.name}"


@pytest.mark.parametrize("command", ["train", "cross-validate"])
def test_a_training_setting_is_an_option_with_the_settings_own_help(command: str) -> None:
    """When help, choices and bounds were written twice, they drifted apart."""
    options = {each.name: each for each in settings_commands()[command].params}
    for name, field in TrainConfig.model_fields.items():
        if name not in ("schema_version", "recipe"):
            if command == "cross-validate" and name in ("patience", "keep", "teacher_share"):
                assert name not in options
                continue
            assert options[name].help.startswith(str(field.description))
            assert options[name].default is None, "an option that is left out changes nothing"
    assert options["optimizer"].metavar == "<sgd|adamw>"


def test_help_shows_choices_and_bounds() -> None:
    shown = CliRunner().invoke(app, ["train", "--help"]).output
    for words in ("--optimizer <sgd|adamw>", "32 to 1024", "--mirror / --no-mirror"):
        assert words in shown


def test_a_field_that_is_not_given_has_its_default() -> None:
    read = read_settings(Prepare, {"sources": [Path("a")], "out": Path("b"), "seed": 3, "groups": ["g=x,y"]}, "prepare")
    assert isinstance(read, Prepare)
    assert read.config.seed == 3
    assert read.config.val_fraction == 0.1
    assert read.config.dicom_patients
    assert read.config.groups == {"g": ("x", "y")}
    none = read_settings(Prepare, {"sources": [Path("a")], "out": Path("b"), "groups": ()}, "prepare")
    assert isinstance(none, Prepare)
    assert none.config == PrepareConfig()
    trained = read_settings(Train, {"out": Path("b"), "lr": 0.1, "freeze": False, "quiet": True}, "train")
    assert isinstance(trained, Train)
    assert trained.changes == {"lr": 0.1, "freeze": False}
    assert trained.quiet is True
    named = read_settings(Train, {"out": Path("b"), "recipe": "a/mine.toml"}, "train")
    assert isinstance(named, Train)
    assert named.recipe == "a/mine.toml"
    assert named.changes == {}


def test_a_value_that_is_not_accepted_is_named_by_its_option() -> None:
    given = {"sources": [Path("a")], "out": Path("b"), "test_fraction": 1.0}
    with pytest.raises(UsageError, match=r"^--test-fraction 1.0: input should be less than 1; see `p --help`.$"):
        read_settings(Prepare, given, "p")
    with pytest.raises(UsageError, match=r"^--lr -1.0: input should be greater than 0; see `p --help`.$"):
        read_settings(Train, {"out": Path("b"), "lr": -1.0}, "p")
    with pytest.raises(UsageError, match=r"^--group: 'seed' is not of the form NAME=CLASS,CLASS; see"):
        read_settings(Prepare, {"sources": [Path("a")], "out": Path("b"), "groups": ["seed"]}, "p")
    with pytest.raises(UsageError, match=r"^--folds 1: input should be greater"):
        read_settings(CrossValidate, {"data": Path("a"), "out": Path("b"), "folds": 1}, "p")


class Sample(Document):
    """Every way in which a field becomes an option or argument, and one hidden field, which becomes neither."""

    place: Annotated[Path, Spelling(argument=True, metavar="PLACE")] = Field(description="Where.")
    flag: bool = Field(default=False, description="Off by default.")
    switch: bool = Field(default=True, description="On by default.")
    either: bool | None = Field(default=None, description="Neither by default.")
    names: tuple[str, ...] = Field(default=(), description="Several.")
    secret: Annotated[int, Spelling(hidden=True)] = 1


def test_the_names_of_options() -> None:
    names = {each.name: [*each.opts, *each.secondary_opts] for each in parameters_of(Sample)}
    assert names == {
        "place": ["place"],
        "flag": ["--flag"],
        "switch": ["--switch", "--no-switch"],
        "either": ["--either", "--no-either"],
        "names": ["--names"],
    }
