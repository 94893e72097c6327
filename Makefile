# make run [SOURCE=folder of label maps] [PORT=8000] [NAME=dataset] [PATTERN=glob]
# make cluster [SOURCE=…] [PORT=8000]      every role of several hosts as processes of this machine; Ctrl-C ends them
# make chaos [KILLS=200] [SEED=0]          processes killed at random during jobs; some minutes
# make test        everything that CI runs
# make check       ruff, mypy and the import contract alone
# make bench       every comparison with other tools, as tables, JSON and a plot; some minutes
# make test-integrations   MMSegmentation and nnU-Net, in an environment of their own (a few minutes to install)

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
PORT ?= 8000
KILLS ?= 200
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
STATE := .run
INTEGRATIONS := .venv-integrations

.PHONY: run cluster chaos test check bench test-integrations clean

run: $(VENV)/.run
	@STATSVC="$(BIN)/statsvc" STATE="$(STATE)" SOURCE="$(SOURCE)" NAME="$(NAME)" PATTERN="$(PATTERN)" \
		PORT="$(PORT)" sh scripts/run.sh

cluster: $(VENV)/.test
	@$(BIN)/python scripts/cluster.py $(SOURCE) --port $(PORT)

chaos: $(VENV)/.test
	@PYTHONPATH=tests $(BIN)/python -m support.chaos $(KILLS) $(SEED)

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/all.py

test-integrations: $(INTEGRATIONS)/.test
	$(INTEGRATIONS)/bin/python -m pytest integration_tests

$(INTEGRATIONS)/.test: pyproject.toml
	$(PYTHON) -m venv $(INTEGRATIONS)
	$(INTEGRATIONS)/bin/python -m pip install --quiet --upgrade pip
	$(INTEGRATIONS)/bin/python -m pip install --quiet 'torch==2.13.0'
	$(INTEGRATIONS)/bin/python -m pip install --quiet --editable '.[integrations]'
	@touch $@

# Where there is an NVIDIA driver, labels can be counted on the GPU, which needs Torch.
$(VENV)/.run: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[workers,service]'
	@if [ -e /dev/nvidiactl ]; then $(BIN)/python -m pip install --quiet 'torch==2.13.0'; fi
	@touch $@

# segmentation-models-pytorch alone: its losses need Torch only, and the rest of it torchvision.
$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	sh scripts/servers.sh
	$(BIN)/python -m pip install --quiet 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps 'segmentation-models-pytorch==0.6.0'
	@touch $@ $(VENV)/.run

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "statsvc needs Python 3.11 or newer; name it: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf $(VENV) $(INTEGRATIONS) $(STATE) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
