# Everything runs in .venv, which is made on first use. PYTHON names another interpreter (3.11 or newer).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help report test quick lint bench cubes docs fuzz clean

help:  ## list what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/test: $(VENV)/core
	$(PIP) install -c constraints.txt -e '.[fill,test]'
	@touch $@

$(VENV)/docs: $(VENV)/core
	$(PIP) install -c constraints.txt -e '.[docs]'
	@touch $@

report: $(VENV)/core  ## write report.html for the bundled cube nano
	@$(BIN)/polystab report nano -o report.html

test: $(VENV)/test  ## run all tests
	$(BIN)/python -m pytest -n auto

quick: $(VENV)/test  ## run the tests that take less than a minute together (doctests are in `test`)
	$(BIN)/python -m pytest -n auto -m "not slow" tests

lint: $(VENV)/test  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/test  ## print our speed and memory as ratios to a named peer
	@for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

cubes: $(VENV)/test  ## make the bundled cubes again, training what is not in the cache (1 to 2 hours)
	$(BIN)/python scripts/make_cubes.py

docs: $(VENV)/docs  ## build the documentation into site/, with every warning an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

fuzz: $(VENV)/test  ## feed 10,000 broken inputs to every reader (hours on two cores; goes on where it was stopped)
	$(BIN)/python scripts/fuzz.py --resume

clean:  ## remove what was made here
	rm -rf $(VENV) report.html site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
