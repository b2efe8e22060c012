"""The page by mouse, keyboard, drop and paste, in Chromium."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from browsing import TIMEOUT_MS, VERDICT, add, opened, picture
from service import Service, serving


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Service]:
    with serving(tiny_bundle) as running:
        yield running


def test_the_mouse_zooms_moves_and_windows(browser: Browser, service: Service, page_films: dict[str, Path]) -> None:
    with opened(browser, service) as page:
        add(page, page_films["film.jpeg"])
        page.fill(".opacity", "0")
        state, film_box = page.locator(".view-state"), page.locator(".pane canvas[role=img]").bounding_box()
        assert film_box is not None
        x, y = film_box["x"] + film_box["width"] / 2, film_box["y"] + film_box["height"] / 2
        whole = picture(page)
        page.mouse.move(x, y)
        page.mouse.wheel(0, -300)
        expect(state).to_contain_text("zoom 1.1")
        page.click("[data-do=in]")
        drag(page, x, y, 60, 30)
        assert np.abs(picture(page) - whole).mean() > 3
        page.click("[data-do=reset]")
        assert (picture(page) == whole).all()
        page.check("input[value=window]")
        drag(page, x, y, -120, 40)
        expect(state).to_have_text("zoom 1.0, window 196, level 108")
        page.click("[data-do=reset]")
        page.click("[data-do=invert]")
        middle = np.s_[100:-100, 100:-100]
        assert np.abs(picture(page)[middle] + whole[middle] - 255).mean() < 2


def drag(page: Page, x: float, y: float, right: float, down: float) -> None:
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right, y + down, steps=4)
    page.mouse.up()


def test_everything_by_keyboard(browser: Browser, service: Service) -> None:
    with opened(browser, service) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        for _ in range(3):
            tab_to(page, "button[data-example=virus]")
            page.keyboard.press("Enter")
        expect(page.locator("#queue li")).to_have_count(3)
        expect(page.locator("#count")).to_have_text("3 of 3", timeout=TIMEOUT_MS)
        tab_to(page, "#queue button")
        page.keyboard.press("ArrowDown")
        expect(page.locator("#queue li:nth-child(2) button")).to_be_focused()
        expect(page.locator("#queue li:nth-child(2) button")).to_have_attribute("aria-current", "true")
        tab_to(page, ".pane canvas[role=img]")
        for key in ("+", "ArrowLeft", "ArrowDown", "[", "<", "i", "h"):
            page.keyboard.press(key)
        expect(page.locator(".view-state")).to_have_text("zoom 1.3, window 240, level 120")
        expect(page.locator("[data-do=invert]")).to_have_attribute("aria-pressed", "true")
        assert page.locator(".opacity").input_value() == "0"
        page.keyboard.press("0")
        expect(page.locator(".view-state")).to_have_text("zoom 1.0, window 256, level 128")
        tab_to(page, ".heat-class")
        page.keyboard.press("ArrowUp")
        for selector in ("[data-do=copy]", "[data-do=print]"):
            tab_to(page, selector)


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus; fail if Tab does not reach it."""
    for _ in range(60):
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead to {selector}")


def test_drop_and_paste(browser: Browser, service: Service, page_films: dict[str, Path]) -> None:
    give = """([kind, bytes]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], `${kind}.jpeg`, { type: "image/jpeg" }));
      const event = kind === "drop"
        ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
      document.querySelector("#drop").dispatchEvent(event);
    }"""
    with opened(browser, service) as page:
        for kind in ("drop", "paste"):
            page.evaluate(give, [kind, list(page_films["film.jpeg"].read_bytes())])
            row = page.locator("#queue li", has_text=f"{kind}.jpeg")
            expect(row.locator(".outcome")).to_have_text(VERDICT, timeout=TIMEOUT_MS)


def test_the_focus_is_visible_on_every_element(browser: Browser, service: Service, page_films: dict[str, Path]) -> None:
    ring = """() => {
      const focused = document.activeElement;
      const seen = focused.id === "files" ? focused.nextElementSibling : focused;
      const style = getComputedStyle(seen);
      return [focused.outerHTML.slice(0, 80), style.outlineStyle, parseFloat(style.outlineWidth)];
    }"""
    with opened(browser, service) as page:
        add(page, page_films["film.jpeg"], page_films["normal.jpeg"])
        page.locator("h1").click()
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("() => document.activeElement === document.body"):
                break
            element, style, width = page.evaluate(ring)
            assert style != "none", element
            assert width >= 2, element
            reached.add(element)
        assert len(reached) > 15
