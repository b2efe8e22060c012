"""The blocks of the documentation's pages, and a desk at which a reader would run them."""

import contextlib
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Self

from samples import REPOSITORY

DOCS = REPOSITORY / "docs"
TOOLS = Path(sys.executable).parent
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|exits with \d)(?:: | on )(?P<why>[^\n]+) -->\n)?"
    r'^```(?P<kind>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
#: What only a shell understands. A `pneumoscope` line without it runs in this process, which need not load Python anew.
_SHELL = re.compile(r"[|><$&;*`]|^\w+=")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. `reason` is why it does not run, `code` how its last command ends, `title` its file's name."""

    page: str
    kind: str
    title: str | None
    text: str
    reason: str | None
    code: int

    def lines(self) -> list[str]:
        """The commands of a bash block, each on one line."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in its order."""
    name = page.relative_to(REPOSITORY).as_posix()
    return [
        Block(
            page=name,
            kind=found["kind"],
            title=found["title"],
            text=found["text"],
            reason=found["why"] if found["mark"] == "not run" else None,
            code=int(found["mark"][-1]) if (found["mark"] or "").startswith("exits") else 0,
        )
        for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


class Desk:
    """A folder in which the blocks of one page run in their order, and the services that they start."""

    def __init__(self, folder: Path, command: Callable[..., SimpleNamespace]) -> None:
        """`command` runs the command line in this process, see `conftest.command`."""
        self.folder = folder
        self._command = command
        self._services = ExitStack()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = str(free.getsockname()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._services.close()

    def run(self, block: Block) -> str:
        """Run a block as a reader would, and return what it printed. A block with a title is written to its file."""
        if block.title:
            (self.folder / block.title).write_text(block.text, encoding="utf-8")
        # Something else here may have the port that the pages name.
        block = replace(block, text=block.text.replace("8080", self._port))
        if block.kind == "python":
            return self._run_python(block)
        return "".join(self._run_line(line, block) for line in block.lines()) if block.kind == "bash" else ""

    def _run_line(self, line: str, block: Block) -> str:
        if line.startswith("pneumoscope serve"):
            self._services.enter_context(running(line, self.folder, self._port))
            return ""
        if line.startswith("pneumoscope ") and not _SHELL.search(line):
            done = self._command(*shlex.split(line)[1:], cwd=self.folder)
        else:
            done = shell(line, self.folder)
        expected = block.code if line == block.lines()[-1] else 0
        assert done.code == expected, f"{block.page}: {line}\n{done.out}\n{done.err}"
        return str(done.out)

    def _run_python(self, block: Block) -> str:
        shown = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(shown):
            exec(compile(block.text, block.page, "exec"), {"__name__": "__main__"})
        return shown.getvalue()


def shell(line: str, folder: Path) -> SimpleNamespace:
    """A line of bash, with this environment's commands on the path."""
    path = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


@contextmanager
def running(line: str, folder: Path, port: str) -> Iterator[None]:
    """A service as a page starts it, on another port and ready."""
    process = subprocess.Popen(
        [TOOLS / line.split()[0], *shlex.split(line)[1:]],
        cwd=folder,
        env=os.environ | {"PNEUMOSCOPE_PORT": port},
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as response:
                assert response.status == 200
                break
            assert process.poll() is None, line
            time.sleep(0.05)
        else:
            raise AssertionError(f"{line}: the service is not ready")
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0
