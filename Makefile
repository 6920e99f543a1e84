# Everything runs in .venv, which is made on first use. PYTHON=python3.13 names another interpreter (3.11 or newer), which
# gets an environment of its own.
VENV := $(if $(filter command environment,$(firstword $(origin PYTHON))),.venv-$(notdir $(PYTHON)),.venv)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
# For workers, one to a core: more threads than that stand in each other's way.
ONE_THREAD := OMP_NUM_THREADS=1
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help report test quick coverage lint bench cubes docs notebooks fuzz wheel clean

help:  ## list what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/test: $(VENV)/core $(VENV)/browser
	$(PIP) install -c constraints.txt -e '.[fill,test]'
	@touch $@

# axe-core, by which pages are judged, with the checksum of the lock file. Without it the browser tests are skipped.
$(VENV)/browser: $(VENV)/core tests/browser/package-lock.json
	@mkdir -p $@ && cp tests/browser/package.json tests/browser/package-lock.json $@
	@if command -v npm >/dev/null; then npm ci --prefix $@ --ignore-scripts --no-audit --no-fund --loglevel=error || \
	  echo "axe-core was not installed: the browser tests will be skipped"; fi
	@touch $@

$(VENV)/docs: $(VENV)/core
	$(PIP) install -c constraints.txt -e '.[docs]'
	@touch $@

report: $(VENV)/core  ## write report.html for the bundled cube nano
	@$(BIN)/polystab report nano -o report.html

test: $(VENV)/test  ## run all tests, and all notebooks
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto --dist worksteal --nbmake --nbmake-timeout=300 notebooks tests polystab

quick: $(VENV)/test  ## run the tests that take less than a minute together (doctests are in `test`)
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto -m "not slow" tests

coverage: $(VENV)/test  ## run them again, and fail if they run less than 90 % of lines and branches (all tests run more)
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto -m "not slow" --cov --cov-fail-under=90 --cov-report=term:skip-covered tests

lint: $(VENV)/test  ## check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/test  ## print our speed and memory as ratios to a named peer, and write benchmarks/RESULTS.md
	@$(BIN)/python benchmarks/run.py

cubes: $(VENV)/test  ## make the bundled cubes again, training what is not in the cache (1 to 2 hours)
	$(BIN)/python scripts/make_cubes.py

docs: $(VENV)/docs  ## build the documentation into site/, with every warning an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: $(VENV)/test  ## write each notebook from the text beside it
	$(BIN)/jupytext --quiet --to notebook --update $(filter-out %/conftest.py,$(wildcard notebooks/*.py))

fuzz: $(VENV)/test  ## feed 10,000 broken inputs to every reader, and 2 minutes of guided ones (an hour on one core; goes on where it was stopped)
	$(PIP) install -c constraints.txt -e '.[fuzz]'
	$(BIN)/python scripts/fuzz.py --resume
	$(BIN)/python scripts/fuzz.py --engine atheris

wheel:  ## build and install the wheel in a fresh environment, and run the quick tests against it (PYTHON is which)
	$(PYTHON) scripts/check_wheel.py --out dist

clean:  ## remove what was made here
	rm -rf .venv .venv-* report.html site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz .coverage
