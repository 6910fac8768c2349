# Each target is a thin line over a real tool; after `source .venv/bin/activate` the tools can be used as their own docs say.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)# the stages that DVC starts find the same Python
# Modules are kept compiled, also where a container's environment says otherwise: torch and the like start in a third of the time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup repro test lint bench bench-docs bench-gpu world-results ui push docs world deps lock

help:
	@echo "make repro   run the pipeline (what is missing or changed) and print the results"
	@echo "make test    tests, the whole pipeline in small among them"
	@echo "make lint    style and types"
	@echo "make bench   speed against the plain ways of doing the same (make bench-gpu: 7B with random weights, on a GPU)"
	@echo "make world-results   all methods on three seeds of the small world, hours; which published effects show"
	@echo "make world   train the small world's checkpoints again (their cards: python -m world.card)"
	@echo "make ui      MLflow on 127.0.0.1"
	@echo "make push    outputs and experiments to the remote"

setup: $(READY)

# The environment, exactly as locked; made again when the lock or the package's own description changes.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, this is {sys.version}")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# A clone without outputs pulls if the remote has all that the committed locks name, for DVC would warn of each that it lacks.
repro: $(READY)
	@$(BIN)/lookagain params
	@pull=--pull; \
	if ! test -e models && $(BIN)/dvc data status --not-in-remote --json 2>/dev/null | grep -q not_in_remote; then pull=; fi; \
	exec $(BIN)/dvc repro $$pull
	@$(BIN)/lookagain results
	@$(BIN)/lookagain verify || true

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks

# docs/performance.md from what `make bench` measured, with the picture of how cost grows.
bench-docs: $(READY)
	test -f reports/scaling.json || $(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.page

bench-gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu

# studies/world-results.yaml says what is run; what failed is named on the page and tried again by the next call.
world-results: $(READY)
	-$(BIN)/lookagain grid world-results
	$(BIN)/lookagain study world-results --out docs/world-results.md

# Train the small world's checkpoints again, half an hour each: all, or `make world WORLDS=world-0`. Says whether they came out the same.
WORLDS ?= world-0 world-1 world-2 world-3
world: $(READY)
	$(BIN)/dvc repro --force --single-item $(foreach name,$(WORLDS),world/dvc.yaml:train_policy@$(name) world/dvc.yaml:train_clip@$(name))
	@git diff --quiet -- checkpoints && echo "the checkpoints are byte for byte those in git" \
	|| { echo "the checkpoints differ from those in git:"; git diff --stat -- checkpoints; }

ui: $(READY)
	@exec $(BIN)/lookagain ui

push: $(READY)
	$(BIN)/dvc push --run-cache --all-commits
	@if git remote get-url origin >/dev/null 2>&1; then $(BIN)/dvc exp push origin --all-commits; \
	else echo "no git remote 'origin': experiments stay here, outputs are in the DVC remote"; fi

# The README's pictures and docs/results.md, from the last run, whose locks, metrics and tables are committed.
docs: $(READY)
	$(BIN)/lookagain docs
	cp reports/figures/images.png docs/world.png
	cp reports/figures/tradeoff.png docs/tradeoff.png

# For developers: each stage's deps from its imports, and the lock from pyproject.toml.
deps: $(READY)
	$(BIN)/python tests/test_layers.py

lock: $(READY)
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--extra dev pyproject.toml -o requirements.lock
