"""The service's page in Chromium, for the tests of the page."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from service import Service

TIMEOUT_MS = 30_000  # for the longest wait
VERDICT = re.compile("^(Answered|Abstained|Rejected|Not classified)")


@contextmanager
def opened(browser: Browser, service: Service, *, faults: bool = False, **options: Any) -> Iterator[Page]:
    """The page, which must send no request to another host and, unless `faults` are provoked, log no error or
    warning."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    page = context.new_page()
    complaints: list[str] = []
    outside: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda failure: complaints.append(str(failure)))
    page.on("request", lambda sent: None if is_inside(sent.url, service) else outside.append(sent.url))
    page.set_default_timeout(TIMEOUT_MS)
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
        expect(row).to_have_text(VERDICT, timeout=TIMEOUT_MS)


def picture(page: Page) -> np.ndarray:
    """The film's canvas as the screen shows it, `[H, W, 3]`."""
    page.wait_for_timeout(50)
    shot = page.locator(".pane canvas[role=img]").first.screenshot()
    return np.asarray(Image.open(BytesIO(shot)).convert("RGB")).astype(int)


#: Decisions that the tiny bundle does not give on the films of the page's tests.
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
    """Change the decision in the service's next responses; map and picture stay."""

    def change(route: Any) -> None:
        route.fulfill(json=route.fetch().json() | UNANSWERED | decision)

    page.unroute("**/v1/predictions*")
    page.route("**/v1/predictions*", change)
