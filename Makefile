# make run [SOURCE=folder of label maps] [PORT=8000] [NAME=dataset] [PATTERN=glob]
# make test               everything that CI runs: check, docs and the whole test suite
# make test-fast          the tests without the slow ones: under three minutes on two cores
# make test-oldest        the test suite with the oldest dependencies that pyproject.toml allows
# make test-newest        the test suite with the newest dependencies instead of constraints.txt
# make test-integrations  MMSegmentation, nnU-Net, TorchGeo, Ultralytics …, in a separate environment of 3.5 GB
# make check              ruff, mypy and the import contracts
# make docs               the documentation site, in site/
# make build              wheel and source distribution in dist/, checked by twine
# make constraints        write constraints.txt: the exact version of every dependency
# make bench              every comparison with other tools, as tables, JSON and a plot; takes minutes
# make cluster [SOURCE=…] [PORT=8000]  every role of a distributed installation on this machine, until Ctrl-C
# make fuzz [LISTED=300] [COUNTED=60] [SEED=0]  list and count damaged files of every format; takes minutes
# make stops [ROUNDS=8] [SEED=0]      cancel jobs and stop servers at random moments of every kind of work; takes minutes
# make compose-test [SOURCE=…]         build the image and run docker-compose.yml with podman; needs root, takes minutes
# make upgrade-test [OLD="COMMIT …"]   upgrade running installations of earlier releases to this one; takes minutes
# make chaos [FORM=cluster|sqlite] [FAULTS=200] [SEED=0]  break a running installation; takes minutes

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
PORT ?= 8000
FORM ?= cluster
FAULTS ?= 200
HANG ?= 5
LONGEST ?= 60
LISTED ?= 300
COUNTED ?= 60
ROUNDS ?= 8
SEED ?= 0
# Most tests wait for servers and processes, so two processes per core keep the cores busy.
JOBS ?= 4
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
BIN := $(VENV)/bin
STATE := .run
INTEGRATIONS := .venv-integrations
BUILD := .venv-build

# Tests start hundreds of processes, which would all compile the package again without bytecode files.
unexport PYTHONDONTWRITEBYTECODE

PIP := $(BIN)/python -m pip install --quiet
PINNED := $(PIP) $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

.PHONY: run test test-fast test-oldest test-newest test-integrations check docs build constraints bench cluster compose-test upgrade-test chaos fuzz stops clean

run: $(VENV)/.run
	@exec env STATSVC="$(BIN)/statsvc" STATE="$(STATE)" SOURCE="$(SOURCE)" NAME="$(NAME)" \
		PATTERN="$(PATTERN)" PORT="$(PORT)" $(BIN)/python scripts/run.py

test: check docs
	$(BIN)/python -m pytest -n $(JOBS)

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-oldest:
	$(PYTHON) scripts/oldest.py > .oldest.txt
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=.oldest.txt

test-newest:
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=

test-integrations: $(INTEGRATIONS)/.test
	PYTHONPATH=tests $(INTEGRATIONS)/bin/python -m pytest integration_tests

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir site

build: $(BUILD)/.build
	rm -rf dist
	$(BUILD)/bin/python -m build --outdir dist .
	$(BUILD)/bin/python -m twine check --strict dist/*

# Torch keeps its version: change its line in constraints.txt to move to another one.
constraints:
	rm -rf .venv-constraints
	$(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet --upgrade pip
	.venv-constraints/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	.venv-constraints/bin/python -m pip install --quiet '.[dev,bench]'
	.venv-constraints/bin/python -m pip install --quiet --no-deps segmentation-models-pytorch
	.venv-constraints/bin/python -m pip freeze --all \
		| sed -e '/^statsvc /d' -e '/^-e /d' -e 's/+.*//' > constraints.txt
	rm -rf .venv-constraints

bench: $(VENV)/.test
	$(PINNED) --editable '.[bench]'
	$(BIN)/python benchmarks/all.py

cluster: $(VENV)/.test
	@$(BIN)/python scripts/cluster.py $(SOURCE) --port $(PORT)

stops: $(VENV)/.test
	@PYTHONPATH=tests $(BIN)/python -m support.stopping $(ROUNDS) $(SEED)

fuzz: $(VENV)/.test
	@PYTHONPATH=tests $(BIN)/python -m support.fuzz $(LISTED) $(COUNTED) $(SEED)

compose-test: $(VENV)/.test
	@PYTHONPATH=tests $(BIN)/python -m support.compose $(SOURCE)

upgrade-test: $(VENV)/.test
	@PYTHONPATH=tests $(BIN)/python -m support.rolling_upgrade $(OLD)

chaos: $(VENV)/.test
	@PYTHONPATH=tests $(BIN)/python -m support.chaos --form $(FORM) --faults $(FAULTS) --seed $(SEED) --hang $(HANG) --longest $(LONGEST)

# With an NVIDIA driver, labels can be counted on the GPU, which needs Torch.
$(VENV)/.run: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "installing statsvc and its dependencies into $(VENV): about 550 MB, one to five minutes" >&2
	$(PINNED) --editable '.[workers,service]'
	@if [ -e /dev/nvidiactl ]; then $(PINNED) torch; fi
	@touch $@

# segmentation-models-pytorch without its dependencies: its losses need Torch only, the rest of it torchvision.
$(VENV)/.test: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	sh scripts/servers.sh
	$(PINNED) torch
	$(PINNED) --editable '.[dev]'
	$(PINNED) --no-deps segmentation-models-pytorch
	@touch $@ $(VENV)/.run

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "statsvc needs Python 3.11 or newer. Run: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PINNED) --upgrade pip

# Building needs neither statsvc nor the packages of the tests.
$(BUILD)/.build: $(CONSTRAINTS)
	$(PYTHON) -m venv $(BUILD)
	$(BUILD)/bin/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) build twine
	@touch $@

$(INTEGRATIONS)/.test: pyproject.toml
	$(PYTHON) -m venv $(INTEGRATIONS)
	$(INTEGRATIONS)/bin/python -m pip install --quiet --upgrade pip
	$(INTEGRATIONS)/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(INTEGRATIONS)/bin/python -m pip freeze | grep '^torch==' > $(INTEGRATIONS)/torch.txt
	$(INTEGRATIONS)/bin/python -m pip install --quiet --constraint $(INTEGRATIONS)/torch.txt --editable '.[integrations]'
	@touch $@

clean:
	rm -rf .venv .venv-* .oldest.txt $(STATE) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
