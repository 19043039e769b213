# Two commands do all the set-up in a fresh clone: `make run` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt

.PHONY: run test lint docs links plan published clean

run: $(VENV)/.installed
	$(BIN)/circuitbench run --method rl-ppo
	$(BIN)/circuitbench leaderboard results --format markdown

test: $(VENV)/.installed-dev lint
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

# The reference run: all tiers, five seeds, plantings that change with the seed; one tier under mean
# and resample ablation too. The plan is printed first. Finished runs are not repeated, so it can be
# stopped and gone on with. Training is shorter than by default, and on the prompts of one batch, to
# fit two cores. Runs of another version are other runs: move the records that are there away first.
# `literature` needs weights: make published TIERS="easy standard hard trained literature".
TIERS := easy standard hard trained
COMPARED := random,head-ablation,activation-patching,acdc,attribution-patching,edge-attribution-patching,integrated-gradients,subset-regression,bandit-ucb,bandit-thompson,successive-halving,cross-entropy,cma-es,mcts,cut-search,layer-prior,descriptor-forest
TRAINED := rl-ppo,rl-ppo-plan,rl-a2c,rl-reinforce,rl-transformer
PUBLISHED := leaderboard/published
SWEEP := $(BIN)/circuitbench sweep --seeds 0-4 --batch-size 16 --workers 2 --threads 1 --out $(PUBLISHED)/records
ALL_RUNS = for tier in $(TIERS); do \
	  $(SWEEP) --tier $$tier --methods $(COMPARED) $(1) || exit; \
	  $(SWEEP) --tier $$tier --methods $(TRAINED) --set training.pool=16 --set training.total_steps=10000 $(1) || exit; \
	  $(SWEEP) --tier $$tier --methods rl-knockout --set training.pool=16 $(1) || exit; \
	done; \
	for ablation in mean resample; do \
	  $(SWEEP) --tier standard --methods $(COMPARED) --ablation $$ablation $(1) || exit; \
	done

plan: $(VENV)/.installed
	@$(call ALL_RUNS,--dry-run)

published: plan
	$(call ALL_RUNS,)
	$(BIN)/circuitbench archive $(PUBLISHED)/records --remove
	$(BIN)/circuitbench leaderboard $(PUBLISHED)/records --format html --out $(PUBLISHED)
	$(BIN)/circuitbench leaderboard $(PUBLISHED)/records --format markdown --out $(PUBLISHED)

clean:
	rm -rf $(VENV) build dist .coverage* .*_cache .hypothesis
