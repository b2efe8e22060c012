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
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

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
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed; `apt-get install chromium` installs it"
)

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
SECONDS = 30_000
VERDICT = re.compile("^(Answered|Abstained|Rejected|Not classified)")


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
    """One film in every format that the page accepts, another film, a lateral view and a file of words."""
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
    """The page, which must send no request to another host and, unless `faults` are provoked, log no error."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    page = context.new_page()
    complaints: list[str] = []
    outside: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda failure: complaints.append(str(failure)))
    page.on("request", lambda sent: None if is_inside(sent.url, service) else outside.append(sent.url))
    page.set_default_timeout(SECONDS)
    page.goto(service.url)
    yield page
    assert not outside
    assert faults or not complaints
    context.close()


def is_inside(url: str, service: Service) -> bool:
    return url.startswith((service.url, "blob:", "data:"))


def add(page: Page, *paths: Path) -> None:
    """Choose files, and wait for the decisions on all of them."""
    before = page.locator("#queue li").count()
    page.set_input_files("#files", [str(path) for path in paths])
    expect(page.locator("#queue li")).to_have_count(before + len(paths))
    for row in page.locator("#queue .outcome").all():
        expect(row).to_have_text(VERDICT, timeout=SECONDS)


def picture(page: Page) -> np.ndarray:
    """The film's canvas as the screen shows it, `[H, W, 3]`."""
    page.wait_for_timeout(50)
    shot = page.locator(".pane canvas[role=img]").first.screenshot()
    return np.asarray(Image.open(BytesIO(shot)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", ["film.jpeg", "deep.png", "film.tiff", "film.dcm"])
def test_a_film_of_every_format_is_shown_with_its_decision(
    browser: Browser, service: Service, films: dict[str, Path], name: str
) -> None:
    with opened(browser, service) as page:
        add(page, films[name])
        answer = service.post("/v1/predictions", films[name].read_bytes(), "application/octet-stream").json()
        expect(page.locator(".pane h2")).to_have_text(name)
        expect(page.locator(".badge")).to_have_text("Answered")
        expect(page.locator(".verdict .label")).to_have_text(answer["label"])
        share = f"{100 * answer['probabilities'][answer['label']]:.1f} %"
        expect(page.locator(".bars li", has=page.locator(".in-set")).locator(".share")).to_have_text(share)
        page.fill(".opacity", "0")
        shown = picture(page)
        assert shown.std() > 20
        assert (shown[..., 0] == shown[..., 2]).all(), "a film is grey"
        assert page.locator("#queue img").count() == 1


def test_the_same_film_looks_the_same_from_every_file(
    browser: Browser, service: Service, films: dict[str, Path]
) -> None:
    """MONOCHROME1, 16 bits and TIFF: a browser alone would show them wrongly or not at all."""
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


def test_several_films_are_listed_compared_and_saved_as_csv(
    browser: Browser, service: Service, films: dict[str, Path]
) -> None:
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
    """Press Tab until the element has the focus; fail if Tab does not reach it."""
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
            expect(row.locator(".outcome")).to_have_text(VERDICT, timeout=SECONDS)


def test_a_bad_file_is_rejected_with_a_reason(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    with opened(browser, service) as page:
        add(page, films["words.jpeg"])
        expect(page.locator(".badge")).to_have_text("Rejected")
        expect(page.locator(".reasons")).to_contain_text("not an accepted image")
        expect(page.locator(".figures")).to_be_hidden()


def test_the_page_survives_a_restart_of_the_server(tiny_bundle: Path, browser: Browser, films: dict[str, Path]) -> None:
    """The server is killed during a request: the page reports it, keeps the films, and continues when it is back."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(tiny_bundle, "--port", port) as service, opened(browser, service, faults=True) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        service.process.send_signal(signal.SIGSTOP)
        page.set_input_files("#files", [str(films["film.jpeg"]), str(films["normal.jpeg"]), str(films["film.dcm"])])
        expect(page.locator("#queue .outcome").first).to_have_text("Being classified…")
        service.process.send_signal(signal.SIGKILL)
        expect(page.locator("#trouble")).to_contain_text("cannot be reached")
        expect(page.locator("#queue li")).to_have_count(3)
        page.click("#clear")
        page.set_input_files("#files", [str(films["film.jpeg"]), str(films["normal.jpeg"])])
        expect(page.locator("#trouble")).to_contain_text("cannot be reached")
        service.process.wait()
        with serving(tiny_bundle, "--port", port):
            page.get_by_role("button", name="Try again").click()
            for row in page.locator("#queue .outcome").all():
                expect(row).to_have_text(VERDICT, timeout=SECONDS)
            expect(page.locator("#trouble")).to_be_empty()


def test_films_can_be_cleared_while_they_are_sent(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    with opened(browser, service, faults=True) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        service.process.send_signal(signal.SIGSTOP)
        page.set_input_files("#files", [str(films["film.jpeg"]), str(films["normal.jpeg"])])
        expect(page.locator("#queue .outcome").first).to_have_text("Being classified…")
        page.click("#clear")
        service.process.send_signal(signal.SIGCONT)
        add(page, films["film.dcm"])
        expect(page.locator(".pane h2")).to_have_text("film.dcm")
        expect(page.locator("#trouble")).to_be_empty()


def test_the_page_retries_while_the_server_is_busy(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    """The first two answers are the service's own 503, as `test_faults` provokes it."""
    attempts = 0

    def busy_twice(route: Any) -> None:
        nonlocal attempts
        attempts += 1
        if attempts > 2:
            route.continue_()
            return
        route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "70 films are waiting."})

    with opened(browser, service, faults=True) as page:
        page.route("**/v1/predictions*", busy_twice)
        page.set_input_files("#files", str(films["film.jpeg"]))
        expect(page.locator("#queue .outcome")).to_contain_text("The server is busy")
        expect(page.locator("#queue .outcome")).to_have_text(VERDICT, timeout=SECONDS)
        assert attempts == 3


def test_the_page_asks_for_the_token_and_sends_it(tiny_bundle: Path, browser: Browser, films: dict[str, Path]) -> None:
    with (
        serving(tiny_bundle, environment={"PNEUMOSCOPE_TOKEN": "0123456789abcdef"}) as service,
        opened(browser, service, faults=True) as page,
    ):
        page.fill("#token", "wr\u2026ng")
        page.get_by_role("button", name="Use token").click()
        expect(page.locator("#trouble")).to_contain_text("ASCII letters")
        page.fill("#token", "wrong")
        page.get_by_role("button", name="Use token").click()
        expect(page.locator("#token-form")).to_be_visible()
        page.fill("#token", "0123456789abcdef")
        page.get_by_role("button", name="Use token").click()
        expect(page.locator("#token-form")).to_be_hidden()
        add(page, films["film.jpeg"])


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


def test_a_model_of_drawings_says_that_it_answers_drawings(browser: Browser, service: Service) -> None:
    def trained_on_drawings(route: Any) -> None:
        document = route.fetch().json()
        document["contract"]["population"]["drawings"] = True
        route.fulfill(json=document)

    with opened(browser, service) as page:
        page.route("**/v1/model", trained_on_drawings)
        page.reload()
        expect(page.locator("#examples-note")).to_contain_text("trained on drawings: it answers them")


def test_the_introduction_gives_way_to_films_and_returns(
    browser: Browser, service: Service, films: dict[str, Path]
) -> None:
    with opened(browser, service) as page:
        add(page, films["film.jpeg"])
        for hidden in ("#intro ul", "#examples img", "#examples .real"):
            expect(page.locator(hidden).first).to_be_hidden()
        page.click("#clear")
        for shown in ("#intro ul", "#examples img", "#examples .real"):
            expect(page.locator(shown).first).to_be_visible()


@pytest.mark.parametrize("width", [1280, 360])
def test_the_notice_is_in_view_and_covers_no_film(
    browser: Browser, service: Service, films: dict[str, Path], width: int
) -> None:
    with opened(browser, service, viewport={"width": width, "height": 740}) as page:
        add(page, films["film.jpeg"])
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
def test_a_percentage_is_on_one_line(browser: Browser, service: Service, films: dict[str, Path], width: int) -> None:
    with opened(browser, service, viewport={"width": width, "height": 800}) as page:
        add(page, films["film.jpeg"], films["normal.jpeg"])
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


def test_the_figures_are_named_for_the_questions_they_answer(
    browser: Browser, service: Service, films: dict[str, Path]
) -> None:
    with opened(browser, service) as page:
        add(page, films["film.jpeg"])
        expect(page.locator(".figures h3")).to_have_text(["pneumonia or not", "bacteria or virus"])
        expect(page.locator(".groups li > :first-child")).to_have_text(["pneumonia", "normal"])
        expect(page.locator(".classes li > :first-child")).to_have_text(["bacteria", "virus"])


def test_a_rejected_film_has_no_figures_and_no_map(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    with opened(browser, service) as page:
        decide_instead(page, REJECTED)
        add(page, films["film.jpeg"])
        expect(page.locator(".badge")).to_have_text("Rejected")
        expect(page.locator(".reasons")).to_contain_text("looks like a drawing")
        for hidden in (".figures", ".heat", ".no-heat"):
            expect(page.locator(hidden)).to_be_hidden()
        shown = picture(page)
        assert (shown[..., 0] == shown[..., 2]).all(), "no colours of a map"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_serious(
    browser: Browser, service: Service, films: dict[str, Path], scheme: Any, width: int
) -> None:
    """In every state of the page: empty, one film, rejected, abstained, ten films, two side by side."""
    with opened(browser, service, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        expect(page.locator(".pane")).to_be_hidden()
        require_accessible(page)
        add(page, films["film.jpeg"])
        expect(page.locator(".badge")).to_have_text("Answered")
        require_accessible(page)
        for decision, badge in ((REJECTED, "Rejected"), (ABSTAINED, "Abstained")):
            decide_instead(page, decision)
            page.click("#clear")
            add(page, films["film.jpeg"])
            expect(page.locator(".badge")).to_have_text(badge)
            require_accessible(page)
        page.unroute("**/v1/predictions*")
        add(page, films["lateral.dcm"], films["words.jpeg"], *[films["normal.jpeg"]] * 7)
        expect(page.locator("#count")).to_have_text("10 of 10")
        require_accessible(page)
        page.click("#compare")
        require_accessible(page)
        assert (brightness(page) < 90) is (scheme == "dark")


def test_the_focus_is_visible_on_every_element(browser: Browser, service: Service, films: dict[str, Path]) -> None:
    ring = """() => {
      const focused = document.activeElement;
      const seen = focused.id === "files" ? focused.nextElementSibling : focused;
      const style = getComputedStyle(seen);
      return [focused.outerHTML.slice(0, 80), style.outlineStyle, parseFloat(style.outlineWidth)];
    }"""
    with opened(browser, service) as page:
        add(page, films["film.jpeg"], films["normal.jpeg"])
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


#: Decisions that the small bundle does not give.
REJECTED: dict[str, Any] = {
    "status": "rejected",
    "reasons": ["the picture looks like a drawing or a logo, not like a radiograph."],
    "reason_codes": ["drawing"],
    "probabilities": {},
    "groups": {},
}
ABSTAINED: dict[str, Any] = {
    "status": "abstained",
    "coverage": 0.9,
    "reasons": ["at 90 % coverage no class is probable enough to fit the film."],
    "reason_codes": ["no-class"],
}
UNANSWERED: dict[str, Any] = {"class": None, "class_index": None, "label": None, "prediction_set": []}


def decide_instead(page: Page, decision: dict[str, Any]) -> None:
    """Change the decision in the service's next answers; map and picture stay."""

    def change(route: Any) -> None:
        route.fulfill(json=route.fetch().json() | UNANSWERED | decision)

    page.unroute("**/v1/predictions*")
    page.route("**/v1/predictions*", change)


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


def test_the_report_of_one_film_is_printed(
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


def test_the_api_documentation_is_shown(browser: Browser, service: Service) -> None:
    with opened(browser, service) as page:
        page.goto(f"{service.url}/docs")
        expect(page.get_by_text("Decide on films").first).to_be_visible()


def test_the_page_names_no_class_of_its_own() -> None:
    """Classes and groups come from the contract; only the example drawings are named in the page."""
    for path in (REPOSITORY / "src" / "pneumoscope" / "server" / "static").glob("*.js"):
        assert "bacteria" not in path.read_text()
        assert "pneumonia" not in path.read_text()
