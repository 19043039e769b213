# Two commands do all the set-up in a fresh clone: `make run` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt

.PHONY: run test lint docs links published clean

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

# The reference run; finished runs are not repeated, so it can be stopped and gone on with.
# Training is shorter than by default, and on the prompts of one batch, to fit two cores. Runs of
# another version are other runs: move the records that are there away before you make new ones.
EMBEDDED := induction,ioi,docstring,greater-than,two-hop,reverse,sort,histogram,frac-prevs,dyck,most-frequent,trained-induction,siit-induction,siit-ioi,siit-two-hop
COMPARED := random,head-ablation,activation-patching,acdc,attribution-patching,edge-attribution-patching,integrated-gradients,subset-regression,bandit-ucb,bandit-thompson,successive-halving,cross-entropy,cma-es,mcts,cut-search
TRAINED := rl-ppo,rl-ppo-plan,rl-a2c,rl-reinforce,rl-transformer,rl-dqn
PUBLISHED := leaderboard/published
SWEEP := $(BIN)/circuitbench sweep --tasks $(EMBEDDED) --seeds 0-4 --batch-size 16 --out $(PUBLISHED)/records
published: $(VENV)/.installed
	$(SWEEP) --methods $(COMPARED)
	$(SWEEP) --methods $(TRAINED) --set training.pool=16 --set training.total_steps=10000
	$(SWEEP) --methods rl-knockout --set training.pool=16
	$(SWEEP) --methods rl-pruning --set training.pool=16 --set training.total_steps=4000
	$(BIN)/circuitbench archive $(PUBLISHED)/records --remove
	$(BIN)/circuitbench leaderboard $(PUBLISHED)/records --format html --out $(PUBLISHED)
	$(BIN)/circuitbench leaderboard $(PUBLISHED)/records --format markdown --out $(PUBLISHED)

clean:
	rm -rf $(VENV) build dist .coverage* .*_cache .hypothesis
