"""Commands made from `settings`: names, types, choices, bounds and help texts are those of the settings models."""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pkgutil import resolve_name
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand
from typing_extensions import override

from pneumoscope.errors import UsageError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

    from pneumoscope.documents import Document
    from pneumoscope.settings.option import Spelling

#: In the order in which a help text gives them: the lower bound first.
_BOUNDS = {"gt": "more than {}", "ge": "at least {}", "lt": "less than {}", "le": "at most {}"}


class SettingsCommand(TyperCommand):
    """A command whose options are the fields of its settings model.

    The model is imported only when this command runs, so that `pneumoscope --help` does not load pydantic.
    """

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
    def params(self, parameters: list[Any]) -> None:
        """Ignore what typer sets: the parameters of the registered function, which has none."""

    @override
    def invoke(self, ctx: Any) -> None:
        type(self).work(read_settings(self.kind, ctx.params, ctx.command_path))


def command(
    app: typer.Typer, name: str, settings: str, *, cls: type[SettingsCommand] = SettingsCommand
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a function as a command. Its argument is the settings, `MODULE.CLASS` below `pneumoscope.settings`."""

    def register(work: Callable[[Any], None]) -> Callable[[Any], None]:
        command_class = type(cls.__name__, (cls,), {"settings": settings, "work": staticmethod(work)})
        app.command(name, cls=command_class, help=work.__doc__)(lambda: None)
        return work

    return register


def read_settings(kind: "type[Document]", options: dict[str, Any], path: str) -> "Document":
    """Make settings from options and arguments; fields that were not given have the model's default.

    Args:
        kind: the settings model.
        options: values by field name, as typer parsed them.
        path: the command as typed, such as `pneumoscope data prepare`, for the message of an error.

    Raises:
        UsageError: a field does not accept its value, or values contradict each other.
    """
    from pydantic import ValidationError, create_model

    values: dict[str, Any] = {}
    present = {
        name: value for name, value in options.items() if value not in (None, (), [])
    }  # typer's values for what is absent
    for name, field in kind.model_fields.items():
        nested = _nested_model(field)
        if nested is not None:
            values[name] = {each: present[each] for each, _, _ in _fields(nested) if each in present}
        elif name in present:
            values[name] = present[name]
    fields = {name: (field, is_change) for name, field, is_change in _fields(kind)}
    # Changes to a document are checked field by field: the document's other values (a recipe's) are not known here.
    changed: dict[str, Any] = {
        name: (field.annotation, field) for name, (field, is_change) in fields.items() if is_change and name in present
    }
    try:
        create_model("Changes", **changed).model_validate({name: present[name] for name in changed})
        return kind.model_validate(values)
    except ValidationError as failure:
        raise UsageError(f"{_describe_problem(fields, failure)}; see `{path} --help`.") from failure


@cache
def parameters_of(kind: "type[Document]") -> list[Any]:
    """Typer's parameters for a settings model.

    Typer derives parameters from a function's signature, so a function with such a signature is made.
    """
    signature = [_parameter(name, field, is_change=is_change) for name, field, is_change in _fields(kind)]

    def function(**_: Any) -> None: ...

    function.__dict__["__signature__"] = inspect.Signature(signature)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(function)
    return list(typer.main.get_command(app).params)


def _fields(kind: "type[Document]") -> "Iterator[tuple[str, FieldInfo, bool]]":
    """The fields that become options: name, field, and whether it is a change.

    A change sets one value of a document, such as a recipe, and so has no default.
    """
    for name, field in kind.model_fields.items():
        spelling, nested = _spelling(field), _nested_model(field)
        if nested is not None:
            is_change = spelling.changes is not None
            yield from ((name, field, is_change) for name, field, _ in _fields(nested) if name not in spelling.without)
        elif not spelling.hidden:
            yield name, field, False


def _nested_model(field: "FieldInfo") -> "type[Document] | None":
    """The model whose fields become options in place of this field: its type, or the document that it changes."""
    from pneumoscope.documents import Document

    nested = _spelling(field).changes or field.annotation
    return nested if isinstance(nested, type) and issubclass(nested, Document) else None


def _spelling(field: "FieldInfo") -> "Spelling":
    from pneumoscope.settings.option import Spelling

    return next((each for each in field.metadata if isinstance(each, Spelling)), Spelling())


def _parameter(name: str, field: "FieldInfo", *, is_change: bool) -> inspect.Parameter:
    spelling = _spelling(field)
    kind = _typer_type(spelling.kind or field.annotation)
    limits = {bound: getattr(each, bound) for each in field.metadata for bound in _BOUNDS if hasattr(each, bound)}
    metavar = spelling.metavar
    if kind in (int, float) or get_origin(kind) is Literal:
        # Typer would check these itself, but its messages do not say what was given, and it does not know all bounds.
        metavar = metavar or f"<{'|'.join(map(str, get_args(kind))) or kind.__name__}>"
        kind = str
    options: dict[str, Any] = {
        "help": f"{field.description} {_range(limits)}" if limits else field.description,
        "envvar": spelling.variable,
        "metavar": metavar,
        "exists": "existing" in spelling.path,
        "dir_okay": "file" not in spelling.path,
        "file_okay": "folder" not in spelling.path,
    }
    if spelling.argument:
        info = typer.Argument(**options)
    else:
        info = typer.Option(..., *_option_names(name, field, is_change), **options)
    default = None if is_change or field.default_factory or field.default in ((), {}) else field.default
    if field.is_required() and not is_change:
        default = inspect.Parameter.empty
    else:
        kind |= None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _range(limits: dict[str, Any]) -> str:
    """Bounds as a sentence.

    >>> _range({"lt": 1, "ge": 0})
    'At least 0, less than 1.'
    >>> _range({"ge": 32, "le": 1024})
    '32 to 1024.'
    """
    if limits.keys() == {"ge", "le"}:
        return f"{limits['ge']} to {limits['le']}."
    text = ", ".join(_BOUNDS[bound].format(limits[bound]) for bound in _BOUNDS if bound in limits)
    return f"{text[0].upper()}{text[1:]}."


def _option_names(name: str, field: "FieldInfo", is_change: bool) -> tuple[str, ...]:  # noqa: FBT001 (private, by position)
    """An option's names. A switch that is off by default has no `--no-` form, unless it changes a document."""
    if names := _spelling(field).names:
        return names
    dashed = "--" + name.replace("_", "-")
    if _typer_type(field.annotation) is not bool or (field.default is False and not is_change):
        return (dashed,)
    return (f"{dashed}/--no-{dashed[2:]}",)


def _typer_type(annotation: Any) -> Any:
    """A field's type as typer accepts it: without None, and a tuple of any length as a list."""
    kinds = [each for each in get_args(annotation) if each is not NoneType]
    if get_origin(annotation) is tuple:
        return list[_typer_type(kinds[0])]  # type: ignore[misc]
    if get_origin(annotation) is Annotated or (len(kinds) == 1 and NoneType in get_args(annotation)):
        return _typer_type(kinds[0])
    return annotation


def _describe_problem(fields: "dict[str, tuple[FieldInfo, bool]]", failure: "ValidationError") -> str:
    """The first problem in a few words, with the option's name as typed."""
    problem = failure.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    name = next((str(each) for each in problem["loc"] if each in fields), None)
    if name is None:
        return message
    field, is_change = fields[name]
    option = name.upper() if _spelling(field).argument else _option_names(name, field, is_change)[0].partition("/")[0]
    if problem["type"] == "value_error":  # our validators' messages name the value themselves
        return f"{option}: {message}"
    return f"{option} {problem['input']}: {message[0].lower()}{message[1:]}"
