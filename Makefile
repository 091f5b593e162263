# Two commands do all the set-up: `make run` and `make test`.
# `make docs` builds the documentation into site/ (a test does the same), `make docs-serve` shows it on this machine.
# `make test-slow` runs what takes minutes, `make test-slurm` what needs a real Slurm (Debian: munge slurmctld
# slurmd slurm-client slurmdbd mariadb-server; without them its tests are skipped, or fail where ABLATE_NEEDS_SLURM is set);
# `.ci/run` runs everything.
# `make bench` runs all benchmarks one after the other, `make bench-NAME` one (benchmarks/README.md); MONAI, TorchIO and others that ours
# are compared with get an environment of their own, PEERS_VENV.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PEERS_VENV ?= $(CURDIR)/.venv-peers

.PHONY: run test test-slow test-slurm check lint types imports docs docs-serve bench peers clean

run: $(VENV)/.installed
	$(BIN)/ablate run studies/collapse.yaml

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not slurm"

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m "slow and not slurm"

test-slurm: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slurm

check: lint types imports

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory site 8000

BENCHMARKS := crops peer_step peer_floor indexing commands report overhead scale fleet first_step metric_points logging_share step step_floor sequential early tuning verdicts preflight_ranking

bench: $(addprefix bench-,$(BENCHMARKS))

# All together in less than 40 minutes: smaller sizes of what takes longest; alone each runs at its full size (arguments: ARGS="...").
bench: ARGS_first_step = studies/collapse.yaml 3
bench: ARGS_step = --repetitions 3 --sides 2x1 1x2
bench: ARGS_step_floor = --repetitions 3 --steps 30 --threads 1
bench: ARGS_peer_step = 5 --threads 2 --of 0 1 2 3 4 8
bench: ARGS_peer_floor = 2 --of 4 7 8
bench: ARGS_overhead = 1000 3
bench: ARGS_logging_share = 3
bench: ARGS_sequential = 4000
bench: ARGS_early = 60
bench: ARGS_tuning = 30
bench: ARGS_verdicts = 100

peers: $(PEERS_VENV)/.installed

$(PEERS_VENV)/.installed: benchmarks/peers.lock
	test -x $(PEERS_VENV)/bin/python || $(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.lock
	touch $@

bench-crops bench-peer_step bench-peer_floor bench-indexing bench-overhead: $(PEERS_VENV)/.installed

bench-%: benchmarks/%.py $(VENV)/.installed-dev
	PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python benchmarks/keep.py $* $(or $(ARGS),$(ARGS_$*))

$(VENV)/.installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[dev]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
