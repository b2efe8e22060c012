# Everything runs in a private environment, .venv, which the first target that needs it creates from requirements.lock.
PYTHON ?= python3
DEMO ?= demo
VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)/tools/bin/uv
READY := $(VENV)/.ready

MODEL ?= model
BASE := pneumoscope-base
RECIPE ?= $(BASE)
# Huge pages, and an allocator that keeps memory between steps: training on a CPU is a sixth faster.
FAST := THP_MEM_ALLOC_ENABLE=1 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184

# Tests run in one process per core, so each gets a single PyTorch thread.
PARALLEL := OMP_NUM_THREADS=1

# Folds trained at the same time by `make model`: one per core is fastest.
JOBS ?= $(shell nproc)

.PHONY: demo test quick check docs site lock clean browser model dist sbom release

demo: $(READY)  ## the whole flow on synthetic radiographs
	$(BIN)/pneumoscope demo --out $(DEMO) --overwrite

test: check browser  ## everything CI runs
	$(PARALLEL) $(BIN)/pytest --numprocesses auto --dist worksteal --durations 20

quick: $(READY)  ## the fast tests: without training, and with few processes; within a minute
	$(PARALLEL) $(BIN)/pytest --quick --numprocesses auto

check: $(READY)  ## ruff, formatting, strict types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

browser:  ## Chromium for the page's tests, where it can be had; without it they are skipped
	@command -v chromium chromium-browser google-chrome >/dev/null || { test "$$(id -u)" = 0 \
		&& echo "The tests of the page need Chromium, which is missing: installing Debian's package chromium (apt-get)" \
		&& apt-get update -qq && apt-get install -qq --yes chromium >/dev/null; } \
		|| echo "no Chromium, and it cannot be installed here: the tests of the page are skipped"

docs: $(READY)  ## write the pages and pictures that are made from the code
	$(BIN)/python scripts/write_cli_docs.py
	$(BIN)/python scripts/write_architecture_docs.py

site: $(READY)  ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

model: $(MODEL)/bundle/contract.json  ## the bundle that ships, from ARCHIVE=FILE.zip; takes hours, can be resumed

$(MODEL)/data/manifest.csv: | $(READY)
	test -n "$(ARCHIVE)" || { echo "ARCHIVE is missing; run: make model ARCHIVE=FILE.zip" >&2; exit 2; }
	$(BIN)/pneumoscope data prepare "$(ARCHIVE)" --out $(MODEL)/data --train-only

$(MODEL)/folds/evidence.npz: | $(MODEL)/data/manifest.csv
	$(FAST) $(BIN)/pneumoscope cross-validate --data $(MODEL)/data --out $(MODEL)/folds --recipe $(RECIPE) \
		--jobs $(JOBS) $(if $(wildcard $(MODEL)/folds/folds.json),--resume)

$(MODEL)/run/weights.safetensors: | $(MODEL)/data/manifest.csv
	$(FAST) $(BIN)/pneumoscope train --out $(MODEL)/run $(if $(wildcard $(MODEL)/run/run.json),--resume,\
		--data $(MODEL)/data --recipe $(RECIPE))

$(MODEL)/bundle/contract.json: | $(MODEL)/folds/evidence.npz $(MODEL)/run/weights.safetensors
	$(BIN)/pneumoscope export $(MODEL)/run --name $(BASE) --evidence $(MODEL)/folds/evidence.npz --out $(MODEL)/bundle

lock: $(UV)  ## update the lock files to the newest versions that pyproject.toml allows
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --upgrade \
		--python-version 3.11 --all-extras pyproject.toml --output-file requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 --extra dicom --extra lambda --constraint requirements.lock pyproject.toml \
		--output-file deploy/requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 --extra train --constraint requirements.lock pyproject.toml \
		--output-file src/pneumoscope/aws/client/train.lock
	echo hatchling | $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 --constraint requirements.lock - --output-file deploy/build.lock

dist: $(READY)  ## the wheel and the sdist in dist/, byte for byte the same from the same commit
	$(BIN)/python scripts/release.py dist

sbom: $(READY)  ## the wheel, the sdist, and the bill of materials of an installation without extras
	$(BIN)/python scripts/release.py sbom

release: $(READY)  ## everything up to the upload: checks, tests, wheel and sdist in dist/, both tried out, and notes
	$(BIN)/python scripts/release.py check
	$(MAKE) test
	$(BIN)/python scripts/release.py release

clean:  ## remove what other targets made, except the environment and the model
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# With --target, pip needs no venv module, which a bare Debian Python lacks.
$(UV):
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
		--target $(VENV)/tools "uv>=0.9"

$(READY): requirements.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	VIRTUAL_ENV=$(VENV) $(UV) pip sync --require-hashes --compile-bytecode requirements.lock
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
