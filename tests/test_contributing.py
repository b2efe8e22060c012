"""The files that GitHub and a contributor's tools read: hooks, issue forms, the workflow, the citation."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from samples import REPOSITORY

HOST = REPOSITORY / ".github"
FORMS = sorted(path for path in (HOST / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
TOOLS = Path(sys.executable).parent


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_workflow_runs_make_test_and_nothing_else() -> None:
    (path,) = (HOST / "workflows").iterdir()
    workflow = read(path)
    triggers = workflow[True]  # YAML 1.1 reads the key `on` as a truth value
    assert set(triggers) == {"push", "pull_request"}
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    used = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
    assert used == ["actions/checkout", "actions/setup-python"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    assert [step["with"]["python-version"] for step in job["steps"] if "with" in step] == ["3.11"]


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_the_host_asks_for(form: Path) -> None:
    document = read(form)
    assert {"name", "description", "body"} <= document.keys()
    names = [part["id"] for part in document["body"] if part["type"] != "markdown"]
    assert len(names) == len(set(names))
    for part in document["body"]:
        assert part["type"] in ("markdown", "textarea", "input", "checkboxes")
        assert (
            part["attributes"].get("value" if part["type"] == "markdown" else "label") or part["type"] == "checkboxes"
        )
    assert any(part.get("validations", {}).get("required") for part in document["body"])


def test_there_is_a_form_for_bugs_features_and_the_model() -> None:
    assert [form.stem for form in FORMS] == ["bug", "feature", "model-behaviour"]
    assert read(HOST / "ISSUE_TEMPLATE" / "config.yml") == {"blank_issues_enabled": False}


@pytest.mark.parametrize(
    "path",
    [
        HOST / "ISSUE_TEMPLATE" / "bug.yml",
        HOST / "ISSUE_TEMPLATE" / "model-behaviour.yml",
        HOST / "pull_request_template.md",
    ],
    ids=lambda path: path.name,
)
def test_nobody_is_led_to_attach_a_patients_image(path: Path) -> None:
    assert "Never attach patient images" in path.read_text(encoding="utf-8")


def test_security_and_contributing_ask_for_no_patient_data() -> None:
    security = " ".join((REPOSITORY / "SECURITY.md").read_text(encoding="utf-8").split())
    assert "Send no patient data" in security
    assert "Report privately" in security
    assert "Never attach or commit a patient's image" in " ".join((REPOSITORY / "CONTRIBUTING.md").read_text().split())


def test_the_hooks_are_the_projects_own_tools() -> None:
    path = REPOSITORY / ".pre-commit-config.yaml"
    checked = subprocess.run(
        [TOOLS / "pre-commit", "validate-config", path], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    repositories = read(path)["repos"]
    assert [each["repo"] for each in repositories] == ["local"]
    entries = [hook["entry"].split() for hook in repositories[0]["hooks"]]
    assert [hook["language"] for hook in repositories[0]["hooks"]] == ["system"] * len(entries)
    for program, *_ in entries:
        folder, _, name = program.rpartition("/")
        assert folder == ".venv/bin"
        assert (TOOLS / name).exists(), name
    makefile = (REPOSITORY / "Makefile").read_text()
    in_check = re.findall(r"^\t\$\(BIN\)/(.+)$", makefile.partition("\ncheck:")[2].partition("\n\n")[0], re.MULTILINE)
    ours = [" ".join([program.rpartition("/")[2], *words]) for program, *words in entries]
    assert [each.removesuffix(" --force-exclude") for each in ours] == [
        each.removesuffix(" --check") for each in in_check
    ]


def test_every_target_that_contributing_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for name in ("CONTRIBUTING.md", "docs/how-to/release.md"):
        assert set(re.findall(r"\bmake ([a-z]+)\b`", (REPOSITORY / name).read_text())) <= targets


def test_every_file_that_contributing_names_is_there() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|benchmarks)/[\w./-]+)`", text)
    assert len(named) > 5
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_the_citation_has_what_its_format_asks_for() -> None:
    """Citation File Format 1.2.0, doi:10.5281/zenodo.5171937. The version is the package's, and not written here."""
    citation = read(REPOSITORY / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"message", "title", "authors", "type"}
    assert citation["type"] == "software"
    assert citation["license"] == "Apache-2.0"
    assert "version" not in citation
    article, data = citation["references"]
    for each in (citation, article, data):
        assert all("name" in author or {"family-names", "given-names"} <= author.keys() for author in each["authors"])
        assert each["title"]
    assert (article["type"], article["doi"]) == ("article", "10.1016/j.cell.2018.02.010")
    assert (article["journal"], article["volume"], article["start"], article["end"]) == ("Cell", 172, "1122", "1131")
    assert (data["type"], data["doi"]) == ("data", "10.17632/rscbjbr9sj")
