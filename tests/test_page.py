"""The page in Chromium, against a running service: films and their decisions."""

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from browsing import REJECTED, add, decide_instead, opened, picture
from samples import REPOSITORY
from service import Service, serving


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Service]:
    with serving(tiny_bundle) as running:
        yield running


@pytest.mark.parametrize("name", ["film.jpeg", "deep.png", "film.tiff", "film.dcm"])
def test_a_film_of_every_format_is_shown_with_its_decision(
    browser: Browser, service: Service, page_films: dict[str, Path], name: str
) -> None:
    with opened(browser, service) as page:
        add(page, page_films[name])
        document = service.post("/v1/predictions", page_films[name].read_bytes(), "application/octet-stream").json()
        expect(page.locator(".pane h2")).to_have_text(name)
        expect(page.locator(".badge")).to_have_text("Answered")
        expect(page.locator(".verdict .label")).to_have_text(document["label"])
        share = f"{100 * document['probabilities'][document['label']]:.1f} %"
        expect(page.locator(".bars li", has=page.locator(".in-set")).locator(".share")).to_have_text(share)
        page.fill(".opacity", "0")
        shown = picture(page)
        assert shown.std() > 20
        assert (shown[..., 0] == shown[..., 2]).all(), "a film is grey"
        assert page.locator("#queue img").count() == 1


def test_the_same_film_looks_the_same_from_every_file(
    browser: Browser, service: Service, page_films: dict[str, Path]
) -> None:
    """MONOCHROME1, 16 bits and TIFF: a browser alone would show them wrongly or not at all."""
    with opened(browser, service) as page:
        add(page, *(page_films[name] for name in ("film.tiff", "deep.png", "film.dcm")))
        shown = []
        for row in page.locator("#queue button").all():
            row.click()
            page.fill(".opacity", "0")
            shown.append(picture(page))
    for other in shown[1:]:
        assert np.abs(other - shown[0]).mean() < 3


def test_the_heat_map_has_a_class_and_an_opacity(
    browser: Browser, service: Service, page_films: dict[str, Path]
) -> None:
    with opened(browser, service) as page:
        add(page, page_films["film.jpeg"])
        pictures = {}
        for label in ("bacteria", "normal", "virus"):
            page.select_option(".heat-class", label)
            pictures[label] = picture(page)
        page.fill(".opacity", "0")
        bare = picture(page)
        page.fill(".opacity", "100")
        strong = picture(page)
    assert np.abs(pictures["bacteria"] - pictures["virus"]).mean() > 1
    assert np.abs(strong - bare).mean() > np.abs(pictures["virus"] - bare).mean() > 1


def test_several_films_are_listed_compared_and_saved_as_csv(
    browser: Browser, service: Service, page_films: dict[str, Path]
) -> None:
    names = ["film.jpeg", "normal.jpeg", "lateral.dcm", "words.jpeg"]
    with opened(browser, service) as page:
        add(page, *(page_films[name] for name in names))
        expect(page.locator("#count")).to_have_text("4 of 4")
        with page.expect_download() as download:
            page.click("#csv")
        rows = list(csv.DictReader(StringIO(download.value.path().read_text())))
        assert [row["image"] for row in rows] == names
        assert [row["status"] for row in rows] == ["answered", "answered", "rejected", "rejected"]
        assert [row["reason_codes"] for row in rows][2:] == ["view", "undecodable"]
        document = service.post("/v1/predictions", page_films["film.jpeg"].read_bytes()).json()
        assert float(rows[0]["p_virus"]) == document["probabilities"]["virus"]
        assert float(rows[0]["p_pneumonia"]) == document["groups"]["pneumonia"]
        page.click("#compare")
        expect(page.locator(".pane")).to_have_count(2)
        page.locator(".choose-other select").nth(1).select_option(label="3. lateral.dcm")
        expect(page.locator(".pane h2").nth(1)).to_have_text("lateral.dcm")
        expect(page.locator(".pane").nth(1).locator(".reasons")).to_contain_text("view is left lateral")
        page.click("#compare")
        expect(page.locator(".pane")).to_have_count(1)
        page.click("#clear")
        expect(page.locator("#queue li")).to_have_count(0)
        expect(page.locator(".pane")).to_be_hidden()
        expect(page.locator("#list-actions")).to_be_hidden()


def test_json_is_copied(browser: Browser, service: Service, page_films: dict[str, Path]) -> None:
    with opened(browser, service, permissions=["clipboard-read", "clipboard-write"]) as page:
        add(page, page_films["film.jpeg"])
        page.click("[data-do=copy]")
        expect(page.locator("#status")).to_contain_text("copied")
        copied = json.loads(page.evaluate("() => navigator.clipboard.readText()"))
    document = service.post("/v1/predictions", page_films["film.jpeg"].read_bytes()).json()
    assert copied["image"] == "film.jpeg"
    assert copied["probabilities"] == document["probabilities"]
    assert copied["notice"] == document["notice"]


def test_a_bad_file_is_rejected_with_a_reason(browser: Browser, service: Service, page_films: dict[str, Path]) -> None:
    with opened(browser, service) as page:
        add(page, page_films["words.jpeg"])
        expect(page.locator(".badge")).to_have_text("Rejected")
        expect(page.locator(".reasons")).to_contain_text("not an accepted image")
        expect(page.locator(".figures")).to_be_hidden()


def test_the_figures_are_named_for_the_questions_they_answer(
    browser: Browser, service: Service, page_films: dict[str, Path]
) -> None:
    with opened(browser, service) as page:
        add(page, page_films["film.jpeg"])
        expect(page.locator(".figures h3")).to_have_text(["pneumonia or not", "bacteria or virus"])
        expect(page.locator(".groups li > :first-child")).to_have_text(["pneumonia", "normal"])
        expect(page.locator(".classes li > :first-child")).to_have_text(["bacteria", "virus"])


def test_a_rejected_film_has_no_figures_and_no_map(
    browser: Browser, service: Service, page_films: dict[str, Path]
) -> None:
    with opened(browser, service) as page:
        decide_instead(page, REJECTED)
        add(page, page_films["film.jpeg"])
        expect(page.locator(".badge")).to_have_text("Rejected")
        expect(page.locator(".reasons")).to_contain_text("looks like a drawing")
        for hidden in (".figures", ".heat", ".no-heat"):
            expect(page.locator(hidden)).to_be_hidden()
        shown = picture(page)
        assert (shown[..., 0] == shown[..., 2]).all(), "no colours of a map"


def test_the_report_of_one_film_is_printed(
    browser: Browser, service: Service, page_films: dict[str, Path], tmp_path: Path
) -> None:
    with opened(browser, service) as page:
        add(page, page_films["film.jpeg"])
        page.evaluate("() => { window.print = () => { window.printed = true; }; }")
        page.click("[data-do=print]")
        assert page.evaluate("() => window.printed")
        page.emulate_media(media="print")
        for hidden in ("#films", ".tools", "header nav"):
            expect(page.locator(hidden).first).to_be_hidden()
        for shown in (".verdict", ".bars", "footer", ".facts", "canvas[role=img]"):
            expect(page.locator(shown).first).to_be_visible()
        page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_the_api_documentation_is_shown(browser: Browser, service: Service) -> None:
    with opened(browser, service) as page:
        page.goto(f"{service.url}/docs")
        expect(page.get_by_text("Decide on films").first).to_be_visible()


def test_the_page_names_no_class_of_its_own() -> None:
    """Classes and groups come from the contract; only the example drawings are named in the page."""
    for path in (REPOSITORY / "src" / "pneumoscope" / "server" / "static").glob("*.js"):
        assert "bacteria" not in path.read_text()
        assert "pneumonia" not in path.read_text()
