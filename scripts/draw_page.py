"""Draw docs/images/page.png: the service's page in Chromium, with the three example drawings and never a real film.

python scripts/draw_page.py [--bundle DIR] [--example normal|bacteria|virus]

The shipped bundle rejects the drawings. A bundle that was trained on drawings, such as the one that `make demo`
leaves in demo/bundle, answers them.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from pneumoscope.phantom import FINDINGS

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "page.png"
WIDTH, HEIGHT = 1280, 860  # pixels: one film and its decision fit in
MOST_BYTES = 200_000
_COLOURS = 256  # of the PNG's palette; true colours take several times the bytes
_MILLISECONDS = 60_000


def main() -> None:
    """Draw the picture, with the options of the command line."""
    parser = argparse.ArgumentParser(description="Draw docs/images/page.png.")
    parser.add_argument("--bundle", type=Path, help="bundle that the page shows; by default the shipped one")
    parser.add_argument("--example", choices=FINDINGS, default="bacteria", help="drawing that is shown large")
    parser.add_argument("--out", type=Path, default=PICTURE, help="PNG to write")
    options = parser.parse_args()
    with serving(options.bundle) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(url)
        classify_examples(page, shown=options.example)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_bytes(compress(page.screenshot()))
        browser.close()
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


def chromium() -> str:
    """The path of the installed Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise SystemExit("Chromium is not installed; `apt-get install chromium` installs it.")


@contextmanager
def serving(bundle: Path | None) -> Iterator[str]:
    """The address of a service that runs inside the block."""
    chosen = [] if bundle is None else ["--bundle", str(bundle)]
    command = [sys.executable, "-m", "pneumoscope", "serve", "--port", "0", *chosen]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = None
            for line in process.stderr:
                if found := re.search(r"http://\S+:\d+/", line):
                    url = found[0]
                if " ready: " in line:
                    break
            if url is None or process.poll() is not None:
                raise SystemExit("the service did not start; run the same command by hand to see why.")
            yield url
        finally:
            process.terminate()


def classify_examples(page: Page, *, shown: str) -> None:
    """Classify the example drawings, and show one of them."""
    order = [shown, *(finding for finding in FINDINGS if finding != shown)]  # the first film is the one shown
    for finding in order:
        page.click(f"[data-example={finding}]")
    expect(page.locator("#count")).to_have_text(f"{len(order)} of {len(order)}", timeout=_MILLISECONDS)
    page.locator("h1").click()  # takes the focus, and its ring, from the last button
    page.wait_for_timeout(500)  # the bars grow to their length


def compress(screenshot: bytes) -> bytes:
    """The screenshot as a PNG with a palette.

    Raises:
        SystemExit: it is larger than the documentation allows.
    """
    colours = Image.open(BytesIO(screenshot)).convert("RGB")
    palette = colours.quantize(_COLOURS, kmeans=4)
    buffer = BytesIO()
    # Dithered, because 256 colours alone would show as contour lines in the heat map.
    colours.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
    content = buffer.getvalue()
    if len(content) > MOST_BYTES:
        raise SystemExit(f"the picture has {len(content):,} bytes, more than {MOST_BYTES:,}; draw a smaller window.")
    return content


if __name__ == "__main__":
    main()
