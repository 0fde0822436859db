# Everything a fresh machine needs: `make demo` and `make test` set themselves up; the tests need system packages, too.
# The environment is rebuilt when pyproject.toml, constraints.txt or this file change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
# Two threads on nets of this size cost more time than they save, and episodes run in parallel anyway.
export OMP_NUM_THREADS := 1

.PHONY: demo test lint types train-agents bench bench-core bench-safety bench-gap clean

$(STAMP): pyproject.toml constraints.txt Makefile
	@command -v $(PYTHON) >/dev/null || { echo "sim2sky needs Python 3.11 or newer: set PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sim2sky needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V): set PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch first and pinned: anything that depends on it would bring several GB of GPU libraries along
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

demo: $(STAMP)
	@scripts/demo.sh

test: $(STAMP)
	scripts/system_packages.sh
	$(BIN)/python -m pytest -n 2 --dist loadfile --maxfail=25

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/pyright

train-agents: $(STAMP)
	@scripts/train_agents.sh

build/bench/hawk: $(STAMP) agents/hawk/model.zip
	rm -rf $@ && $(BIN)/sim2sky export agents/hawk/model.zip -o $@

bench: build/bench/hawk
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/env_speed.py
	$(BIN)/python benchmarks/hil_exchange.py build/bench/hawk
	$(BIN)/python benchmarks/policy_process_latency.py build/bench/hawk
	$(BIN)/python benchmarks/recorder_cost.py
	$(BIN)/python benchmarks/hsa_training.py

# About half an hour: the C core against its Python twins, on every compiler and machine there is here.
bench-core: export PYTHONPATH := src:.
bench-core: build/bench/hawk
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	scripts/system_packages.sh
	$(BIN)/python benchmarks/policy_latency.py
	$(BIN)/python benchmarks/native_backend.py
	$(BIN)/python benchmarks/pil.py build/bench/hawk
	$(BIN)/python benchmarks/elementary_functions.py
	$(BIN)/python benchmarks/bit_identity.py
	$(BIN)/python benchmarks/guard_twin.py

# Two to three hours: what must never happen, tried very often. The tests run a short form of each.
bench-safety: export PYTHONPATH := src:.
bench-safety: build/bench/hawk
	$(BIN)/python benchmarks/flight_loop.py build/bench/hawk
	$(BIN)/python benchmarks/policy_deaths.py build/bench/hawk
	$(BIN)/python benchmarks/recorder_kills.py build/bench/hawk
	$(BIN)/python benchmarks/install_kills.py
	$(BIN)/python benchmarks/guarded_flight.py
	$(BIN)/python benchmarks/kill_switch.py
	$(BIN)/python benchmarks/guard_fuzz.py
	$(BIN)/python benchmarks/fence_approaches.py
	$(BIN)/python benchmarks/link_fuzz.py

# About an hour on two cores: false alarms, coverage, causes, parameters, and twenty turns of the diamond.
bench-gap: export PYTHONPATH := src:.
bench-gap: $(STAMP)
	$(BIN)/python benchmarks/log_import.py speed 100
	$(BIN)/python benchmarks/log_import.py damage 1000
	$(BIN)/python benchmarks/gap_statistics.py
	$(BIN)/python benchmarks/attribution.py 60
	$(BIN)/python benchmarks/identification.py --flights 40
	$(BIN)/python benchmarks/diamond.py --aircraft 20

clean:
	rm -rf $(VENV) build
