# Two commands do all the set-up in a fresh clone: `make run` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt

.PHONY: run test coverage lint docs links plan published clean

run: $(VENV)/.installed
	$(BIN)/circuitbench run --method rl-ppo
	$(BIN)/circuitbench leaderboard results --format markdown

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest --numprocesses 2

# What the tests run through; a fifth slower than without counting.
coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --cov

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "circuitbench needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[all]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.installed

# The site, in build/site: every warning is an error, and the story is executed.
docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --builder html docs build/site

# Whether what the docs link to elsewhere is still there; needs the internet.
links: $(VENV)/.installed-docs
	$(BIN)/sphinx-build --builder linkcheck --define nb_execution_mode=off docs build/links

$(VENV)/.installed-docs: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[all,docs]'
	touch $@

# The reference run: what leaderboard/published/reference.yaml states. The plan is printed first.
# Finished runs are not repeated, so it can be stopped and gone on with. Runs of another version are
# other runs: move the records that are there away first.
PUBLISHED := leaderboard/published
REFERENCE = $(BIN)/circuitbench sweep $(PUBLISHED)/reference.yaml --workers 2 --threads 1 --out $(PUBLISHED)/records

plan: $(VENV)/.installed
	$(REFERENCE) --dry-run

published: $(VENV)/.installed
	$(REFERENCE)
	$(BIN)/circuitbench archive $(PUBLISHED)/records --remove
	rm -f $(PUBLISHED)/records/*.curve.csv
	$(BIN)/circuitbench predict-truth $(PUBLISHED)/records --format html --out $(PUBLISHED)
	$(BIN)/python experiments/tables/board_health.py $(PUBLISHED)/records $(PUBLISHED)/health
	$(BIN)/circuitbench leaderboard $(PUBLISHED)/records --format html --health $(PUBLISHED)/health --out $(PUBLISHED)
	$(BIN)/circuitbench leaderboard $(PUBLISHED)/records --format markdown --out $(PUBLISHED)

clean:
	rm -rf $(VENV) build dist .coverage* .*_cache .hypothesis
