# Two commands do all the set-up in a fresh clone: `make run` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt

.PHONY: run test lint published clean

run: $(VENV)/.installed
	$(BIN)/circuitbench run --method rl-ppo
	$(BIN)/circuitbench leaderboard results --format markdown

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest --numprocesses 2

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# mypy needs the folders where the package sees them (pyproject.toml, package-dir).
	rm -rf $(VENV)/types && mkdir -p $(VENV)/types/circuitbench
	ln -s $(CURDIR)/circuitbench/* $(VENV)/types/circuitbench/
	ln -s $(CURDIR)/baselines $(CURDIR)/agents $(CURDIR)/leaderboard $(VENV)/types/circuitbench/
	cd $(VENV)/types && MYPYPATH=. ../bin/mypy --config-file $(CURDIR)/pyproject.toml -p circuitbench

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "circuitbench needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.installed

# The reference run; finished runs are not repeated, so it can be stopped and gone on with.
EMBEDDED := induction,ioi,docstring,greater-than,two-hop,reverse,sort,histogram,frac-prevs,dyck,most-frequent,trained-induction,siit-induction,siit-ioi,siit-two-hop
COMPARED := random,head-ablation,activation-patching,acdc,attribution-patching,integrated-gradients,subset-regression,bandit-ucb,bandit-thompson,successive-halving,cross-entropy,cma-es,mcts,cut-search
published: $(VENV)/.installed
	$(BIN)/circuitbench sweep --methods $(COMPARED) --tasks $(EMBEDDED) --seeds 0-4 --batch-size 16 \
		--out leaderboard/published/records
	$(BIN)/circuitbench leaderboard leaderboard/published/records --format html --out leaderboard/published
	$(BIN)/circuitbench leaderboard leaderboard/published/records --format markdown --out leaderboard/published

clean:
	rm -rf $(VENV) build *.egg-info
