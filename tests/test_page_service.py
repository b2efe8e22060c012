"""The page with a service that is killed, busy, slow or guarded by a token, in Chromium."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from browsing import TIMEOUT_MS, VERDICT, add, opened
from service import Service, serving


@pytest.fixture(scope="module")
def service(tiny_bundle: Path) -> Iterator[Service]:
    with serving(tiny_bundle) as running:
        yield running


def test_the_page_survives_a_restart_of_the_server(
    tiny_bundle: Path, browser: Browser, page_films: dict[str, Path]
) -> None:
    """The server is killed during a request: the page reports it, keeps the films, and continues when it is back."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(tiny_bundle, "--port", port) as service, opened(browser, service, faults=True) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        service.process.send_signal(signal.SIGSTOP)
        page.set_input_files(
            "#files", [str(page_films["film.jpeg"]), str(page_films["normal.jpeg"]), str(page_films["film.dcm"])]
        )
        expect(page.locator("#queue .outcome").first).to_have_text("Being classified…")
        service.process.send_signal(signal.SIGKILL)
        expect(page.locator("#trouble")).to_contain_text("cannot be reached")
        expect(page.locator("#queue li")).to_have_count(3)
        page.click("#clear")
        expect(page.locator("#trouble")).to_be_empty()
        page.set_input_files("#files", [str(page_films["film.jpeg"]), str(page_films["normal.jpeg"])])
        expect(page.locator("#trouble")).to_contain_text("cannot be reached")
        service.process.wait()
        with serving(tiny_bundle, "--port", port):
            page.get_by_role("button", name="Try again").click()
            for row in page.locator("#queue .outcome").all():
                expect(row).to_have_text(VERDICT, timeout=TIMEOUT_MS)
            expect(page.locator("#trouble")).to_be_empty()


def test_films_can_be_cleared_while_they_are_sent(
    browser: Browser, service: Service, page_films: dict[str, Path]
) -> None:
    with opened(browser, service, faults=True) as page:
        expect(page.locator("#model")).to_contain_text("tiny")
        service.process.send_signal(signal.SIGSTOP)
        page.set_input_files("#files", [str(page_films["film.jpeg"]), str(page_films["normal.jpeg"])])
        expect(page.locator("#queue .outcome").first).to_have_text("Being classified…")
        page.click("#clear")
        service.process.send_signal(signal.SIGCONT)
        add(page, page_films["film.dcm"])
        expect(page.locator(".pane h2")).to_have_text("film.dcm")
        expect(page.locator("#trouble")).to_be_empty()


def test_the_page_retries_while_the_server_is_busy(
    browser: Browser, service: Service, page_films: dict[str, Path]
) -> None:
    """The first two responses imitate the 503 of a full queue, which `test_faults` provokes in the service itself."""
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
        page.set_input_files("#files", str(page_films["film.jpeg"]))
        expect(page.locator("#queue .outcome")).to_contain_text("The server is busy")
        expect(page.locator("#queue .outcome")).to_have_text(VERDICT, timeout=TIMEOUT_MS)
        assert attempts == 3


def test_the_page_asks_for_the_token_and_sends_it(
    tiny_bundle: Path, browser: Browser, page_films: dict[str, Path]
) -> None:
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
        add(page, page_films["film.jpeg"])
