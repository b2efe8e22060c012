"""The house's plain English, as far as patterns can check it: phrases that a reader stumbles over do not come back."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from pneumoscope import errors
from samples import REPOSITORY

_COUNTED = (
    r"films|images|pictures|pages|files|folders|bytes|[KMG]B|rows|requests|calls|predictions|steps|epochs|samples"
    r"|shards|workers|cores|threads|ms|milliseconds|seconds|minutes|hours|dollars|euros"
)
_RATE = (
    r"second|minute|hour|day|month|film|image|class|patient|core|worker|process|row|line|call|epoch|step|file|folder"
)

#: What is wrong, and what to write instead.
BANISHED = {
    rf"\b(?:{_COUNTED}) an? (?:{_RATE})\b": "`per` in rates",
    r"\bmay not\b": "`must not`, `might not` or `cannot`",
    r"\bwhoever\b": "`anyone who`",
    r"\bwhat is no\b": "`what is not a`",
    r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b|fewer\b|less\b)[a-z]": "`is not a`",
    r"\b(?:is|are|was|were) none (?:that|of)\b": "`is not one of`",
    r"\bas none\b": "`as if there were none`",
    r"\b(?:is|are|was|were|be|been|being) told\b": "`is reported`, `is distinguished`",
    r"\b(?:is|are|was|were) said\b": "`is reported`, `is stated`",
    r"\bno talk\b|\basked of\b|\bhas no say\b": "a plain sentence",
}

PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "src").rglob("*.md")]
MODULES = [
    path
    for folder in ("src", "benchmarks", "scripts", "tests")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
    if path != Path(__file__).resolve()
]
SOURCES = [path for path in MODULES if REPOSITORY / "tests" not in path.parents]


def sentences(module: Path) -> Iterator[tuple[int, str]]:
    """Every comment and every string of a module, with its line: docstrings, help texts and messages among them."""
    source = module.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    block, start, last = "", 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:  # a sentence may run over several lines of comments
            if token.start[0] != last + 1:
                yield start, block
                block, start = "", token.start[0]
            block, last = f"{block} {token.string.lstrip('#: ')}", token.start[0]
    yield start, block


#: Calls whose text people read as a sentence: the reasons of a decision, and errors.
SENTENCE_CALLS = {"Reason", "HTTPException", "Problem"} | {
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
}


def last_words(text: ast.expr) -> str:
    """The end of a literal or of a formatted string; empty if a value is at its end."""
    if isinstance(text, ast.JoinedStr):
        return last_words(text.values[-1])
    return text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""


def unfinished(source: str) -> list[str]:
    """The ends of reasons and error messages that lack a full stop or a question mark."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    named = (each for each in calls if isinstance(each.func, ast.Name) and each.func.id in SENTENCE_CALLS)
    ends = (last_words(text) for call in named for text in call.args[:2])
    return [end for end in ends if " " in end and not end.endswith((".", "?"))]


def stumbles(text: str) -> list[str]:
    """What a text says that it should not, each with what to write instead."""
    plain = re.sub(r"\s+", " ", text)
    return [
        f"{found.group()!r}: write {instead}"
        for pattern, instead in BANISHED.items()
        for found in re.finditer(pattern, plain, re.IGNORECASE)
    ]


@pytest.mark.parametrize(
    "bad",
    [
        "80 films a second",
        "it may not be asked",
        "whoever wants a prediction",
        "What is no film is rejected",
        "this is no radiograph",
        "the id is none that POST /jobs gives",
        "is told by its name",
    ],
)
def test_a_banished_phrase_is_found(bad: str) -> None:
    assert stumbles(bad)


@pytest.mark.parametrize(
    "good", ["there is no film", "it is no longer there", "80 films per second", "a film a day old"]
)
def test_a_plain_sentence_passes(good: str) -> None:
    assert not stumbles(good)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_modules_are_in_plain_words(module: Path) -> None:
    assert [f"{module.name}:{line}: {each}" for line, text in sentences(module) for each in stumbles(text)] == []


def test_a_message_without_a_full_stop_is_found() -> None:
    assert unfinished('Reason("greys", f"{count} levels of grey")') == [" levels of grey"]
    assert not unfinished('Reason("greys", f"{count} levels of grey.")')


@pytest.mark.parametrize("module", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_reasons_and_errors_end_with_a_full_stop(module: Path) -> None:
    assert unfinished(module.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("module", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_a_space_is_between_number_and_percent_sign(module: Path) -> None:
    """`90 %`, as in every page; the format `.0%` would write `90%`."""
    glued = re.compile(r"\d%|^\.?\d*%(?=$|[ ,.;:)])")
    found = [f"{module.name}:{line}: {text}" for line, text in sentences(module) if glued.search(text)]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_pages_are_in_plain_words(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = [f"{page.name}: {each}" for block in text.split("\n\n") for each in stumbles(block)]
    assert found == []
