"""The page in a real browser, Chromium, against a running service."""

import csv
import json
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import axe_playwright_python
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

import dicoms
from pneumoscope.phantom import encode_jpeg, film
from samples import REPOSITORY, encode
from service import Service, serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; `apt-get install chromium` brings one")

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
SECONDS = 30_000
VERDICT = re.compile("^(Answered|Undetermined|Rejected|Not classified)")


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Service]:
    with serving(tiny_bundle) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield started
        started.close()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same film in every way the page takes one, and files that are none."""
    folder = tmp_path_factory.mktemp("films")
    luma = film("virus", patient=2, size=(300, 360))
    deep = luma.astype(np.uint16) * 16
    contents = {
        "film.jpeg": encode_jpeg(luma),
        "deep.png": encode(Image.fromarray(luma.astype(np.uint16) * 257)),
        "film.tiff": encode(Image.fromarray(luma), "TIFF"),
        "film.dcm": dicoms.dicom(4095 - deep, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11),
        "normal.jpeg": encode_jpeg(film("normal", patient=3, size=(280, 300))),
        "lateral.dcm": dicoms.dicom(deep, ViewPosition="LL"),
        "words.jpeg": b"these are words",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}


@contextmanager
def opened(browser: Browser, service: Service, *, faults: bool = False, **options: Any) -> Iterator[Page]:
    """A page that must ask nobody else and, unless `faults` are made on purpose, complain of nothing."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    page = context.new_page()
    complaints: list[str] = []
    outside: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda failure: complaints.append(str(failure)))
    page.on("request", lambda asked: None if is_inside(asked.url, service) else outside.append(asked.url))
    page.set_default_timeout(SECONDS)
    page.goto(service.url)
    yield page
    assert not outside
    assert faults or not complaints
    context.close()


def is_inside(url: str, service: Service) -> bool:
    return url.startswith((service.url, "blob:", "data:"))


def add(page: Page, *paths: Path) -> None:
    """Choose files, and wait until all have been decided on."""
    before = page.locator("#queue li").count()
    page.set_input_files("#files", [str(path) for path in paths])
    expect(page.locator("#queue li")).to_have_count(before + len(paths))
    for row in page.locator("#queue .told").all():
        expect(row).to_have_text(VERDICT, timeout=SECONDS)


def picture(page: Page) -> np.ndarray:
    """The film's canvas as it is on the screen, `[H, W, 3]`."""
    page.wait_for_timeout(50)
    shot = page.locator(".pane canvas[role=img]").first.screenshot()
    return np.asarray(Image.open(BytesIO(shot)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", ["film.jpeg", "deep.png", "film.tiff", "film.dcm"])
def test_every_kind_is_shown_and_decided_on(
    browser: Browser, service: Service, films: dict[str, Path], name: str
) -> None:
    with opened(browser, service) as page:
        add(page, films[name])
        answer = service.post("/v1/predictions", films[name].read_bytes(), "application/octet-stream").json()
        expect(page.locator(".pane h2")).to_have_text(name)
        expect(page.locator(".badge")).to_have_text("Answered")
        expect(page.locator(".verdict .label")).to_have_text(answer["label"])
        share = f"{100 * answer['probabilities'][answer['label']]:.1f} %"
        expect(page.locator(".classes li", has=page.locator(".in-set")).locator(".share")).to_have_text(share)
        page.fill(".opacity", "0")
        shown = picture(page)
        assert shown.std() > 20
        assert (shown[..., 0] == shown[..., 2]).all(), "a film is grey"
        assert page.locator("#queue img").count() == 1


def test_the_same_film_looks_the_same_from_every_file(
    browser: Browser, service: Service, films: dict[str, Path]
) -> None:
    """MONOCHROME1, 16 bits and TIFF, which a browser would show wrongly or not at all."""
    with opened(browser, service) as page:
        add(page, *(films[name] for name in ("film.tiff", "deep.png", "film.dcm")))
        shown = []
        for row in page.locator("#queue button").all():
            row.click()
            page.fill(".opacity", "0")
            shown.append(picture(page))
    for other in shown[1:]:
        assert np.abs(other - shown[0]).mean() < 3


def test_the_heat_map_has_a_class_and_an_opacity(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    with opened(browser, service) as page:
        add(page, films["film.jpeg"])
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


def test_several_films_a_table_and_a_comparison(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    names = ["film.jpeg", "normal.jpeg", "lateral.dcm", "words.jpeg"]
    with opened(browser, service) as page:
        add(page, *(films[name] for name in names))
        expect(page.locator("#count")).to_have_text("4 of 4")
        with page.expect_download() as download:
            page.click("#csv")
        rows = list(csv.DictReader(StringIO(download.value.path().read_text())))
        assert [row["image"] for row in rows] == names
        assert [row["status"] for row in rows] == ["answered", "answered", "rejected", "rejected"]
        assert [row["reason_codes"] for row in rows][2:] == ["view", "undecodable"]
        answer = service.post("/v1/predictions", films["film.jpeg"].read_bytes()).json()
        assert float(rows[0]["p_virus"]) == answer["probabilities"]["virus"]
        assert float(rows[0]["p_pneumonia"]) == answer["groups"]["pneumonia"]
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


def test_json_is_copied(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    with opened(browser, service, permissions=["clipboard-read", "clipboard-write"]) as page:
        add(page, films["film.jpeg"])
        page.click("[data-do=copy]")
        expect(page.locator("#status")).to_contain_text("copied")
        copied = json.loads(page.evaluate("() => navigator.clipboard.readText()"))
    answer = service.post("/v1/predictions", films["film.jpeg"].read_bytes()).json()
    assert copied["image"] == "film.jpeg"
    assert copied["probabilities"] == answer["probabilities"]
    assert copied["notice"] == answer["notice"]


def test_the_mouse_zooms_moves_and_windows(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    with opened(browser, service) as page:
        add(page, films["film.jpeg"])
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
        expect(page.locator("#count")).to_have_text("3 of 3", timeout=SECONDS)
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
    """Press Tab until the focus is there; a page that cannot be walked through fails."""
    for _ in range(60):
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead to {selector}")


def test_drop_and_paste(browser: Browser, service: Service, films: dict[str, Path]) -> None:
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
            page.evaluate(give, [kind, list(films["film.jpeg"].read_bytes())])
            row = page.locator("#queue li", has_text=f"{kind}.jpeg")
            expect(row.locator(".told")).to_have_text(VERDICT, timeout=SECONDS)


def test_a_bad_file_is_told_in_words(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    with opened(browser, service) as page:
        add(page, films["words.jpeg"])
        expect(page.locator(".badge")).to_have_text("Rejected")
        expect(page.locator(".reasons")).to_contain_text("not an accepted image")
        expect(page.locator(".figures")).to_be_hidden()


def test_the_servers_end_and_return(tiny_bundle: Path, browser: Browser, films: dict[str, Path]) -> None:
    """Killed in mid-request: the page says so, keeps the films, and goes on when it is back."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(tiny_bundle, "--port", port) as service, opened(browser, service, faults=True) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        service.process.send_signal(signal.SIGSTOP)
        page.set_input_files("#files", [str(films["film.jpeg"]), str(films["normal.jpeg"]), str(films["film.dcm"])])
        expect(page.locator("#queue .told").first).to_have_text("Being classified…")
        service.process.send_signal(signal.SIGKILL)
        expect(page.locator("#trouble")).to_contain_text("cannot be reached")
        expect(page.locator("#queue li")).to_have_count(3)
        page.click("#clear")
        page.set_input_files("#files", [str(films["film.jpeg"]), str(films["normal.jpeg"])])
        expect(page.locator("#trouble")).to_contain_text("cannot be reached")
        service.process.wait()
        with serving(tiny_bundle, "--port", port):
            page.get_by_role("button", name="Try again").click()
            for row in page.locator("#queue .told").all():
                expect(row).to_have_text(VERDICT, timeout=SECONDS)
            expect(page.locator("#trouble")).to_be_empty()


def test_films_can_be_cleared_while_they_are_sent(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    with opened(browser, service, faults=True) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        service.process.send_signal(signal.SIGSTOP)
        page.set_input_files("#files", [str(films["film.jpeg"]), str(films["normal.jpeg"])])
        expect(page.locator("#queue .told").first).to_have_text("Being classified…")
        page.click("#clear")
        service.process.send_signal(signal.SIGCONT)
        add(page, films["film.dcm"])
        expect(page.locator(".pane h2")).to_have_text("film.dcm")
        expect(page.locator("#trouble")).to_be_empty()


def test_a_busy_server_is_asked_again(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    """The service's own 503, as `test_faults` sees it, is given twice in its place."""
    times = []

    def busy_twice(route: Any) -> None:
        times.append(1)
        if len(times) > 2:
            route.continue_()
            return
        route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "70 films are waiting."})

    with opened(browser, service, faults=True) as page:
        page.route("**/v1/predictions*", busy_twice)
        page.set_input_files("#files", str(films["film.jpeg"]))
        expect(page.locator("#queue .told")).to_contain_text("The server is busy")
        expect(page.locator("#queue .told")).to_have_text(VERDICT, timeout=SECONDS)
        assert len(times) == 3


def test_a_token_is_asked_for_and_used(tiny_bundle: Path, browser: Browser, films: dict[str, Path]) -> None:
    with (
        serving(tiny_bundle, environment={"PNEUMOSCOPE_TOKEN": "0123456789abcdef"}) as service,
        opened(browser, service, faults=True) as page,
    ):
        page.fill("#token", "wr\u2026ng")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#trouble")).to_contain_text("plain letters")
        page.fill("#token", "wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#token-form")).to_be_visible()
        page.fill("#token", "0123456789abcdef")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#token-form")).to_be_hidden()
        add(page, films["film.jpeg"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_serious(
    browser: Browser, service: Service, films: dict[str, Path], scheme: Any, width: int
) -> None:
    with opened(browser, service, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        expect(page.locator(".pane")).to_be_hidden()
        require_accessible(page)
        add(page, films["film.jpeg"], films["lateral.dcm"], films["words.jpeg"])
        require_accessible(page)
        page.click("#compare")
        require_accessible(page)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert (brightness(page) < 90) is (scheme == "dark")
        expect(page.locator("footer")).to_be_in_viewport()
        expect(page.locator("footer")).to_contain_text("Not a medical device")


def require_accessible(page: Page) -> None:
    page.evaluate(f"() => {{ {AXE} }}")
    found = page.evaluate("async () => (await window.axe.run()).violations")
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert not serious, [(each["id"], each["nodes"][0]["html"]) for each in serious]


def brightness(page: Page) -> float:
    return float(np.asarray(Image.open(BytesIO(page.screenshot())).convert("L")).mean())


def test_one_films_report_is_printed(
    browser: Browser, service: Service, films: dict[str, Path], tmp_path: Path
) -> None:
    with opened(browser, service) as page:
        add(page, films["film.jpeg"])
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


def test_the_api_document_is_shown(browser: Browser, service: Service) -> None:
    with opened(browser, service) as page:
        page.goto(f"{service.url}/docs")
        expect(page.get_by_text("Decide on films").first).to_be_visible()


def test_the_page_names_no_class_of_its_own() -> None:
    """Classes and groups come from the contract; only the drawn examples have names."""
    for path in (REPOSITORY / "src" / "pneumoscope" / "server" / "static").glob("*.js"):
        assert "bacteria" not in path.read_text()
        assert "pneumonia" not in path.read_text()
