"""Write docs/reference/cli.md from the commands' own help; a test checks that the two agree.

python scripts/write_cli_docs.py
"""

from pathlib import Path
from typing import Any

from typer.main import get_command

from pneumoscope.cli.app import app
from pneumoscope.settings.training import TrainConfig

DOCUMENT = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
HEAD = """# Commands

Written by `make docs` from the commands' own help.
Exit codes: 0 success, 1 the command failed or some inputs were refused, 2 wrong usage, 130 interrupted. An interrupted
command (Ctrl-C) leaves no incomplete file under its final name. Folders that are filled step by step remain:
`--resume` continues an interrupted `train` or `cross-validate`, and the same command an interrupted `score` or
`data fetch`. Data goes to stdout, progress and errors to stderr.
"""

_SETTINGS = TrainConfig.model_fields.keys() - {"schema_version", "recipe"}  # those that a recipe can set


def render() -> str:
    """The whole document, `docs/reference/cli.md`."""
    root: Any = get_command(app)
    sections = [HEAD]
    for name, command in root.commands.items():
        members = getattr(command, "commands", None)
        if members is None:
            members = {"": command}
        for member, leaf in members.items():
            sections.append(_section(f"pneumoscope {name} {member}".rstrip(), leaf))
    return "\n".join(sections)


def _section(title: str, command: Any) -> str:
    lines = [f"## `{title}`", "", *(line.strip() for line in (command.help or "").strip().splitlines()), ""]
    lines += ["| option | what it is | default |", "|---|---|---|"]
    for parameter in command.params:
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        if "|" in (parameter.metavar or ""):
            names += f" ({parameter.metavar.strip('<>').replace('|', ', ')})"
        default = "required" if parameter.required else _default(parameter.default)
        if title.endswith((" train", " cross-validate")) and parameter.name in _SETTINGS:
            default = _setting(parameter.name)
        what = (parameter.help or "").replace("|", "/")
        if parameter.envvar:
            what += f" Also set by the environment variable `{parameter.envvar}`."
        lines.append(f"| {names} | {what} | {default} |")
    return "\n".join(lines) + "\n"


def _setting(name: str) -> str:
    """The default of a training setting, for recipes that do not set it."""
    field = TrainConfig.model_fields[name]
    return "from the recipe" if field.is_required() else _default(field.default)


def _default(value: object) -> str:
    return "" if value is None or value is False or value == [] else f"`{getattr(value, 'value', value)}`"


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")
