"""The page: in a real browser, without a network, light and dark, narrow and printed; and the charts' geometry."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import axe_playwright_python
import numpy as np
import pytest
from playwright.sync_api import Browser

from pneumoscope.dataset import Dataset
from pneumoscope.engine import ImageFile
from pneumoscope.report import Options, Report, evaluate, measure_drift, plots
from pneumoscope.report.document import Band, Curve, DecisionCurve
from pneumoscope.report.page import checklists, draw_page
from pneumoscope.report.scoring import Mistake

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def report(tiny_bundle: Path, drawn_bundle: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every part: baselines, a comparison, errors with pictures."""
    out = tmp_path_factory.mktemp("pages") / "report"
    evaluate(tiny_bundle, dataset, "test", out, Options(compare=drawn_bundle))
    return out


@pytest.fixture(scope="module")
def drift(tiny_bundle: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages") / "drift"
    films = [ImageFile(name=film.path, read=lambda film=film: dataset.read(film)) for film in dataset.films]  # type: ignore[misc]
    measure_drift(tiny_bundle, films, dataset.root, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page_of", ["report", "drift"])
def test_the_page_is_complete_without_a_network_and_accessible(
    page_of: str, scheme: str, width: int, browser: Browser, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(page_of)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)  # type: ignore[arg-type]
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda each: asked.append(each.url) if not each.url.startswith("data:") else None)
    page.on("console", lambda message: said.append(message.text))
    page.goto((folder / f"{page_of}.html").as_uri())
    assert len(asked) == 1
    assert not said
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.evaluate(AXE)  # add_script_tag would be refused by the page's content security policy
    found = page.evaluate("axe.run()")
    serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], each["nodes"][0]["html"][:200]) for each in serious]
    broken = page.evaluate("[...document.images].filter((each) => !each.complete || !each.naturalWidth).length")
    assert broken == 0
    context.close()


def test_the_page_can_be_printed(report: Path, browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto((report / "report.html").as_uri())
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 40
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.close()


def test_the_page_is_self_contained_and_small(report: Path) -> None:
    text = (report / "report.html").read_text()
    assert len(text.encode()) < 3_000_000
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert not re.findall(r">\s*-?(nan|None|inf)\s*<", text)
    for title in (
        "Confusion matrix",
        "ROC curves",
        "Precision-recall",
        "Reliability",
        "Accuracy of the answered films",
        "Decision curve",
    ):
        assert f'aria-label="{title}' in text, title
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(svg)  # well-formed


def test_a_page_with_a_dozen_large_pictures_stays_small(report: Path) -> None:
    """With pictures of noise, which JPEG hardly compresses."""
    stored = Report.model_validate_json((report / "report.json").read_bytes())
    random = np.random.default_rng(0)
    mistakes = [
        Mistake(
            film=f"{number}.jpeg",
            label="normal",
            predicted="virus",
            probability=0.9,
            luma=random.integers(256, size=(288, 288), dtype=np.uint8),
            activation=random.random((7, 7)).astype(np.float32),
        )
        for number in range(12)
    ]
    text = draw_page(stored, mistakes)
    assert text.count("data:image/jpeg") == 24
    assert len(text.encode()) < 3_000_000


def test_class_names_and_notes_are_escaped(report: Path) -> None:
    stored = Report.model_validate_json((report / "report.json").read_bytes())
    name = '<img src=x onerror="alert(1)">'
    classes = (name, *stored.classes[1:])
    changed = stored.model_copy(update={"classes": classes, "notes": (name,)})
    text = draw_page(changed)
    assert name not in text
    assert "&lt;img" in text


def test_a_chart_draws_its_numbers() -> None:
    curve = Curve(x=(0, 0.5, 1), y=(0, 1, 1), band=Band(x=(0, 1), value=(0, 1), low=(0, None), high=(0.1, 1)))
    drawn = ET.fromstring(plots.roc({"virus": curve}))
    line = next(each for each in drawn.iter("polyline") if each.get("class") == "line c0")
    points = [tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()]
    axes = plots.Axes(x="", y="")
    assert points == [pytest.approx(axes.place(x, y), abs=0.06) for x, y in ((0, 0), (0.5, 1), (1, 1))]
    assert [each.text for each in drawn.iter("text") if each.get("class") == "key"] == ["virus", "guessing"]


def test_a_line_ends_at_the_edge_of_the_chart() -> None:
    band = Band(x=(0.0, 0.5, 0.9), value=(0.3, 0.3, 0.2), low=(0.2, 0.2, 0.1), high=(0.38, 0.38, 0.3))
    tall = plots.decision("virus", DecisionCurve(model=band, treat_all=(0.9, 0.8, 0.5)))
    assert ">0.75<" in tall
    drawn = ET.fromstring(plots.decision("virus", DecisionCurve(model=band, treat_all=(0.3, -0.3, -5.0))))
    line = next(each for each in drawn.iter("polyline") if each.get("class") == "line c1")
    points = [tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()]
    axes = plots.Axes(x="", y="", low=-0.1, high=0.4)
    assert points[-1] == pytest.approx(axes.place(1 / 3, -0.1), abs=0.06)


def test_every_guideline_item_has_a_reason() -> None:
    guidelines = {str(each["name"]): each for each in checklists()}
    last = {"TRIPOD+AI": 27, "CLAIM 2024": 44, "STARD-AI": 40}  # each guideline's own count of items
    assert guidelines.keys() == last.keys()
    for name, each in guidelines.items():
        items = each["items"]
        assert isinstance(items, list)
        numbers = [number for number, _, _, _ in items]
        assert len(numbers) == len(set(numbers))
        whole = [int(number.rstrip("abcdefg")) for number in numbers]
        assert sorted({*whole}) == [*range(1, last[name] + 1)]
        assert whole == sorted(whole)
        for _, name, met, where in items:
            assert name
            assert met in ("yes", "partly", "no")
            assert len(where) > 3
