"""What the page looks like: empty and with films, at three widths, light and dark; axe finds no serious fault."""

from collections.abc import Iterator
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import axe_playwright_python
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from browsing import ABSTAINED, REJECTED, add, decide_instead, opened
from service import Service, serving

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Service]:
    with serving(tiny_bundle) as running:
        yield running


@pytest.mark.parametrize("size", [(1280, 800), (768, 1024), (360, 740)])
def test_the_empty_page_fills_the_window(browser: Browser, service: Service, size: tuple[int, int]) -> None:
    width, height = size
    with opened(browser, service, viewport={"width": width, "height": height}) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        expect(page.locator("#intro li")).to_have_count(3)
        expect(page.locator("#examples-note")).to_contain_text("rejects drawings")
        expect(page.locator("#examples a")).to_have_attribute("href", "https://doi.org/10.17632/rscbjbr9sj")
        page.wait_for_function("() => [...document.images].every((image) => image.naturalWidth > 0)")
        card, notice = box(page, "#films"), box(page, "footer")
        assert card.left < 24
        assert card.right > width - 24
        assert card.bottom > notice.top - 24
        assert box(page, "main").bottom <= notice.top
        examples = [f"[data-example={name}]" for name in ("normal", "bacteria", "virus")]
        parts = [box(page, selector) for selector in ("#intro", "#drop", "#examples-note", *examples, ".real")]
        assert not [(one, other) for one, other in combinations(parts, 2) if one.overlaps(other)]
        assert sideways(page) == 0


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"population": {"age_years": None, "drawings": True}}, "trained on drawings: it answers them"),
        ({"gate": None}, "cannot tell drawings from films: it answers them"),
    ],
)
def test_a_model_that_answers_drawings_says_so(
    browser: Browser, service: Service, changes: dict[str, Any], note: str
) -> None:
    def answer(route: Any) -> None:
        document = route.fetch().json()
        document["contract"] |= changes
        route.fulfill(json=document)

    with opened(browser, service) as page:
        page.route("**/v1/model", answer)
        page.reload()
        expect(page.locator("#examples-note")).to_contain_text(note)


def test_the_introduction_gives_way_to_films_and_returns(
    browser: Browser, service: Service, page_films: dict[str, Path]
) -> None:
    with opened(browser, service) as page:
        add(page, page_films["film.jpeg"])
        for hidden in ("#intro ul", "#examples img", "#examples .real"):
            expect(page.locator(hidden).first).to_be_hidden()
        page.click("#clear")
        for shown in ("#intro ul", "#examples img", "#examples .real"):
            expect(page.locator(shown).first).to_be_visible()


@pytest.mark.parametrize("width", [1280, 360])
def test_the_notice_is_in_view_and_covers_no_film(
    browser: Browser, service: Service, page_films: dict[str, Path], width: int
) -> None:
    with opened(browser, service, viewport={"width": width, "height": 740}) as page:
        add(page, page_films["film.jpeg"])
        for edge in ("start", "center", "end"):
            page.locator(".pane canvas[role=img]").evaluate(
                "(film, edge) => film.scrollIntoView({ block: edge })", edge
            )
            expect(page.locator("footer")).to_be_in_viewport(ratio=1)
            expect(page.locator("footer")).to_contain_text("Not a medical device")
            notice, seen = box(page, "footer"), box(page, "main")
            assert seen.bottom <= notice.top, "what scrolls ends above the notice"
            assert box(page, ".pane canvas[role=img]").overlaps(seen)
        page.locator(".pane canvas[role=img]").evaluate("(film) => film.scrollIntoView({ block: 'end' })")
        assert box(page, ".pane canvas[role=img]").bottom <= box(page, "footer").top + 1, "but for rounding to pixels"


@pytest.mark.parametrize("width", [1280, 768, 360])
def test_a_percentage_is_on_one_line(
    browser: Browser, service: Service, page_films: dict[str, Path], width: int
) -> None:
    with opened(browser, service, viewport={"width": width, "height": 800}) as page:
        add(page, page_films["film.jpeg"], page_films["normal.jpeg"])
        page.click("#compare")
        shares = page.locator(".share")
        assert shares.count() == 8, "pneumonia, normal, bacteria and virus of two films"
        for share in shares.all():
            share.evaluate("(node) => { node.textContent = node.textContent.replace(/[0-9.]+/, '100.0'); }")
            height, line = share.evaluate(
                "(node) => [node.getBoundingClientRect().height, parseFloat(getComputedStyle(node).lineHeight)]"
            )
            assert height < 1.5 * line
            assert share.evaluate("(node) => node.scrollWidth <= node.clientWidth"), "it fits into its column"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_serious(
    browser: Browser, service: Service, page_films: dict[str, Path], scheme: Any, width: int
) -> None:
    """In every state of the page: empty, one film, rejected, abstained, ten films, two side by side."""
    with opened(browser, service, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        expect(page.locator(".pane")).to_be_hidden()
        require_accessible(page)
        add(page, page_films["film.jpeg"])
        expect(page.locator(".badge")).to_have_text("Answered")
        require_accessible(page)
        for decision, badge in ((REJECTED, "Rejected"), (ABSTAINED, "Abstained")):
            decide_instead(page, decision)
            page.click("#clear")
            add(page, page_films["film.jpeg"])
            expect(page.locator(".badge")).to_have_text(badge)
            require_accessible(page)
        page.unroute("**/v1/predictions*")
        add(page, page_films["lateral.dcm"], page_films["words.jpeg"], *[page_films["normal.jpeg"]] * 7)
        expect(page.locator("#count")).to_have_text("10 of 10")
        require_accessible(page)
        page.click("#compare")
        require_accessible(page)
        assert (brightness(page) < 90) is (scheme == "dark")


class Box(NamedTuple):
    """Where an element is on the screen, in CSS pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def box(page: Page, selector: str) -> Box:
    found = page.locator(selector).bounding_box()
    assert found is not None, f"{selector} is not shown"
    return Box(found["x"], found["y"], found["x"] + found["width"], found["y"] + found["height"])


def sideways(page: Page) -> int:
    """Pixels by which the page, or what scrolls in it, is wider than the window."""
    return int(
        page.evaluate(
            "() => Math.max(...[document.documentElement, document.body, document.querySelector('main')]"
            ".map((each) => each.scrollWidth - each.clientWidth))"
        )
    )


def require_accessible(page: Page) -> None:
    assert sideways(page) == 0
    page.evaluate(f"() => {{ {AXE} }}")
    found = page.evaluate("async () => (await window.axe.run()).violations")
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], each["nodes"][0]["html"]) for each in serious]


def brightness(page: Page) -> float:
    return float(np.asarray(Image.open(BytesIO(page.screenshot())).convert("L")).mean())
