"""The command line, made from `settings`: names, types, choices, bounds and help are each model's own."""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pkgutil import resolve_name
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_origin

import typer
from typer.core import TyperCommand
from typing_extensions import override

from pneumoscope.errors import UsageError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

    from pneumoscope.documents import Document
    from pneumoscope.settings.option import Spelling

#: Typer knows inclusive bounds; exclusive ones are in the help, and checked when the settings are read.
_EDGES = {"ge": "", "le": "", "gt": " More than {}.", "lt": " Less than {}."}


class SettingsCommand(TyperCommand):
    """A command whose options are its settings' fields. The settings load when the command is the one to run."""

    settings: ClassVar[str]
    work: ClassVar[Callable[[Any], None]]

    @property
    def kind(self) -> "type[Document]":
        """The settings model, `MODULE.CLASS` below `pneumoscope.settings`."""
        kind: type[Document] = resolve_name(f"pneumoscope.settings.{self.settings}")
        return kind

    @property
    def params(self) -> list[Any]:  # typer's parameters are of a private module
        return parameters_of(self.kind)

    @params.setter
    def params(self, made: list[Any]) -> None:
        """Typer sets those of the registered function, which has none."""

    @override
    def invoke(self, ctx: Any) -> None:
        type(self).work(read_settings(self.kind, ctx.params, ctx.command_path))


def command(
    app: typer.Typer, name: str, settings: str, *, cls: type[SettingsCommand] = SettingsCommand
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a function of one settings model, `MODULE.CLASS` below `pneumoscope.settings`, as a command."""

    def register(work: Callable[[Any], None]) -> Callable[[Any], None]:
        made = type(cls.__name__, (cls,), {"settings": settings, "work": staticmethod(work)})
        app.command(name, cls=made, help=work.__doc__)(lambda: None)
        return work

    return register


def read_settings(kind: "type[Document]", given: dict[str, Any], path: str) -> "Document":
    """The settings that options and arguments make; what was not given has the model's default.

    Raises:
        UsageError: a value that its field does not take, or several that contradict each other.
    """
    from pydantic import ValidationError, create_model

    values: dict[str, Any] = {}
    named = {name: value for name, value in given.items() if value not in (None, (), [])}
    for name, field in kind.model_fields.items():
        part = _part(field)
        if part is not None:
            values[name] = {each: named[each] for each, _, _ in _fields(part) if each in named}
        elif name in named:
            values[name] = named[name]
    fields = {name: (field, unset) for name, field, unset in _fields(kind)}
    # Of a document that is changed: its other fields are not known here.
    changed: dict[str, Any] = {
        name: (field.annotation, field) for name, (field, unset) in fields.items() if unset and name in named
    }
    try:
        create_model("Changes", **changed).model_validate({name: named[name] for name in changed})
        return kind.model_validate(values)
    except ValidationError as failure:
        raise UsageError(f"{_problem(fields, failure)}; see `{path} --help`.") from failure


@cache
def parameters_of(kind: "type[Document]") -> list[Any]:
    """Typer's parameters of a settings model, by way of a function with such a signature."""
    signature = [_parameter(name, field, unset=unset) for name, field, unset in _fields(kind)]

    def function(**_: Any) -> None: ...

    function.__dict__["__signature__"] = inspect.Signature(signature)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(function)
    return list(typer.main.get_command(app).params)


def _fields(kind: "type[Document]") -> "Iterator[tuple[str, FieldInfo, bool]]":
    """The fields that are options: name, field, and whether an option that is left out changes nothing."""
    for name, field in kind.model_fields.items():
        spelling, part = _spelling(field), _part(field)
        if part is not None:
            changes = spelling.changes is not None
            yield from ((name, field, changes) for name, field, _ in _fields(part) if name not in spelling.without)
        elif not spelling.hidden:
            yield name, field, False


def _part(field: "FieldInfo") -> "type[Document] | None":
    """The model whose fields stand for this one: its own type, or the document that it changes."""
    from pneumoscope.documents import Document

    part = _spelling(field).changes or field.annotation
    return part if isinstance(part, type) and issubclass(part, Document) else None


def _spelling(field: "FieldInfo") -> "Spelling":
    from pneumoscope.settings.option import Spelling

    return next((each for each in field.metadata if isinstance(each, Spelling)), Spelling())


def _parameter(name: str, field: "FieldInfo", *, unset: bool) -> inspect.Parameter:
    spelling = _spelling(field)
    kind = _plain(spelling.kind or field.annotation)
    limits = {edge: getattr(each, edge) for each in field.metadata for edge in _EDGES if hasattr(each, edge)}
    common: dict[str, Any] = {
        "help": f"{field.description}{''.join(_EDGES[edge].format(value) for edge, value in limits.items())}",
        "envvar": spelling.variable,
        "metavar": spelling.metavar,
        "exists": "existing" in spelling.path,
        "dir_okay": "file" not in spelling.path,
        "file_okay": "folder" not in spelling.path,
    }
    if spelling.argument:
        info = typer.Argument(**common)
    else:
        info = typer.Option(..., *_names(name, field, unset), min=limits.get("ge"), max=limits.get("le"), **common)
    default = None if unset or field.default_factory or field.default in ((), {}) else field.default
    if field.is_required() and not unset:
        default = inspect.Parameter.empty
    else:
        kind |= None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _names(name: str, field: "FieldInfo", unset: bool) -> tuple[str, ...]:  # noqa: FBT001 (private, by position)
    """An option's names: a switch that is off unless given needs no opposite."""
    if names := _spelling(field).names:
        return names
    dashed = "--" + name.replace("_", "-")
    if _plain(field.annotation) is not bool or (field.default is False and not unset):
        return (dashed,)
    return (f"{dashed}/--no-{dashed[2:]}",)


def _plain(annotation: Any) -> Any:
    """A field's type as typer takes it: without None, and a tuple of any length as a list."""
    kinds = [each for each in get_args(annotation) if each is not NoneType]
    if get_origin(annotation) is tuple:
        return list[_plain(kinds[0])]  # type: ignore[misc]
    if get_origin(annotation) is Annotated or (len(kinds) == 1 and NoneType in get_args(annotation)):
        return _plain(kinds[0])
    return annotation


def _problem(fields: "dict[str, tuple[FieldInfo, bool]]", failure: "ValidationError") -> str:
    """The first problem in a few words, with the option's name as it is typed."""
    problem = failure.errors()[0]
    words = problem["msg"].removeprefix("Value error, ")
    name = next((str(each) for each in problem["loc"] if each in fields), None)
    if name is None:
        return words
    field, unset = fields[name]
    option = name.upper() if _spelling(field).argument else _names(name, field, unset)[0].partition("/")[0]
    if problem["type"] == "value_error":  # our own words, which say the value
        return f"{option}: {words}"
    return f"{option} {problem['input']}: {words[0].lower()}{words[1:]}"
