# Everything runs in a private environment, .venv, made from requirements.lock by the first target that needs it.
PYTHON ?= python3
DEMO ?= demo
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/tools/bin/uv
READY := $(VENV)/.ready

.PHONY: demo test check docs lock clean browser

demo: $(READY)  ## the whole flow on synthetic radiographs
	$(BIN)/pneumoscope demo --out $(DEMO) --overwrite

test: check browser  ## everything CI runs
	$(BIN)/pytest

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

browser:  ## Chromium for the page's tests, where it can be had; without it they are skipped
	@command -v chromium chromium-browser google-chrome >/dev/null \
		|| { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq --yes chromium >/dev/null; } \
		|| echo "no Chromium, and it cannot be installed here: the page's tests are skipped"

docs: $(READY)  ## write docs/cli.md from the commands' own help
	$(BIN)/python scripts/write_cli_docs.py

lock: $(UV)  ## resolve the newest versions that pyproject.toml allows
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --upgrade \
		--python-version 3.11 --all-extras pyproject.toml --output-file requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 --extra dicom --extra lambda --constraint requirements.lock pyproject.toml \
		--output-file deploy/requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 --extra train --constraint requirements.lock pyproject.toml \
		--output-file deploy/train.lock
	echo hatchling | $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 --constraint requirements.lock - --output-file deploy/build.lock

clean:  ## remove what the other targets made, except the environment
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# pip needs no venv module for --target, so a bare Debian Python is enough.
$(UV):
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
		--target $(VENV)/tools "uv>=0.9"

$(READY): requirements.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	VIRTUAL_ENV=$(VENV) $(UV) pip sync --require-hashes --compile-bytecode requirements.lock
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
