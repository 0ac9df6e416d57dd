# The only door to the project. `make` prints the targets.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
export NO_ALBUMENTATIONS_UPDATE := 1
export NO_MKDOCS_2_WARNING := 1

# `make bench` options; DATASET defaults to MVTec AD where it is at hand, else to the embedded ELPV
METHOD ?=
SHOTS ?= 8
SEEDS ?= 0 1 2
CATEGORY ?= all
RESULTS ?= results
METHODS = $(or $(METHOD),"")
STORE = $(RESULTS)
MODELS ?= patchcore
ENGINE ?= serial
BENCH = $(BIN)/python -m anomaly_zoo.bench --method $(METHODS) --shots $(SHOTS) --seeds $(SEEDS) --category $(CATEGORY) \
	--results $(STORE) $(if $(DATASET),--dataset $(DATASET)) $(if $(ROOT),--root $(ROOT)) \
	$(if $(BACKBONE),--backbone $(BACKBONE)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(FORCE),--force) \
	--engine $(ENGINE) $(if $(WORKERS),--workers $(WORKERS)) $(if $(ADDRESS),--address $(ADDRESS)) $(if $(DRY_RUN),--dry-run)
PARALLEL = -n auto --maxprocesses 8 --dist loadfile
ABLATE_SHOTS ?= 1 2 4 8 16

.DEFAULT_GOAL := help
.PHONY: help setup format lint type test test-slow check bench ablate compare claims report docs bench-peers sync bench-engines drill lock clean

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  make bench METHOD=coft SHOTS=8 [DATASET= ROOT= CATEGORY= SEEDS= BACKBONE= WEIGHTS= RESULTS= FORCE=1]"
	@echo "             [ENGINE=local|ray WORKERS= ADDRESS= DRY_RUN=1]"

setup: $(STAMP) ## build .venv (the other targets do it themselves)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs,embedded,ray,dashboards,export,serve]"
	@touch $@

format: $(STAMP) ## format the code and sort the imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --exit-zero --quiet .

lint: $(STAMP) ## check the format, the style and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

type: $(STAMP) ## mypy, strict, on src, tests and benchmarks
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

test: $(STAMP) ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) -m "not slow"

test-slow: $(STAMP) ## the tests that train on real images or start processes
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) -m slow

check: lint type test test-slow docs ## everything that CI checks

bench: $(STAMP) ## run one method on a dataset: make bench METHOD=coft SHOTS=8
	@$(BENCH)

# What every part of a method gives: the method, the baseline and all variants in configs/sweeps, in a store of their own
ablate: METHODS = $(METHOD) frozen $(METHOD):all
ablate: SHOTS = $(ABLATE_SHOTS)
ablate: STORE = $(RESULTS)/ablations/$(METHOD)
ablate: $(STAMP) ## what every part of a method gives: make ablate METHOD=coft [ABLATE_SHOTS="1 8"]
	@$(BENCH)
	@$(BIN)/python -m anomaly_zoo.compare $(STORE) --by dataset --baseline $(METHOD) --metrics image_auroc aupro adapt_s

compare: $(STAMP) ## the table of all results
	@$(BIN)/python -m anomaly_zoo.compare $(RESULTS)

claims: $(STAMP) ## which claims of the papers hold: make claims [ROOT= SHOTS=8 SEEDS= CLAIM=pf-1 NO_RUN=1 DRY_RUN=1 ENGINE=]
	@$(BIN)/python -m anomaly_zoo.claims $(RESULTS) $(if $(CLAIM),--claim $(CLAIM)) $(if $(ROOT),--root $(ROOT)) \
		--shots $(SHOTS) $(if $(filter-out file,$(origin SEEDS)),--seeds $(SEEDS)) --engine $(ENGINE) \
		$(if $(WORKERS),--workers $(WORKERS)) $(if $(NO_RUN),--no-run) $(if $(DRY_RUN),--dry-run)

report: $(STAMP) ## one HTML file with figures and pictures of all results: make report [REPORT=report.html]
	@$(BIN)/python -m anomaly_zoo.compare $(RESULTS) --report $(or $(REPORT),report.html)

sync: $(STAMP) ## upload the W&B runs that were tracked offline (after `wandb login`)
	@$(BIN)/python -m anomaly_zoo.dashboards sync $(RESULTS)

bench-engines: $(STAMP) ## how much faster the engines are: make bench-engines ROOT="a b" SHOTS="1 2"
	@$(BIN)/python benchmarks/engines.py --root $(ROOT) --category $(CATEGORY) --shots $(SHOTS) --seeds $(SEEDS) \
		--method $(or $(METHOD),patchcore)

drill: $(STAMP) ## kill the bench 200 times and check that nothing is lost
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill_drill.py --kills 200

bench-peers: $(STAMP) .venv-peers/.ready ## beside anomalib: make bench-peers ROOT=datasets/mvtec_ad CATEGORY=bottle
	@test -n "$(ROOT)" || { echo "Pass ROOT=<folder in the MVTec layout>, and CATEGORY=<name> for less than all of it."; exit 2; }
	$(BIN)/python benchmarks/vs_anomalib.py --root "$(ROOT)" $(if $(DATASET),--dataset $(DATASET)) --category $(CATEGORY) \
		--shots $(SHOTS) --seeds $(SEEDS) --ours $(or $(METHOD),patchcore) --models $(MODELS) $(if $(REPORT),--output $(REPORT))
	PYTHONPATH=src .venv-peers/bin/python -W ignore benchmarks/metrics.py

.venv-peers/.ready: benchmarks/peers/requirements.txt
	rm -rf .venv-peers
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement $<
	@touch $@

docs: $(STAMP) ## build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

lock: ## write constraints.txt from a new environment with the newest versions
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --editable ".[dev,docs,embedded,ray,dashboards,export,serve]"
	{ sed -n '/^#/p' constraints.txt; build/lock/bin/python -m pip freeze --exclude-editable | sed 's/$$/ ; python_version >= "3.11"/'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/lock

clean: ## remove what the tools made, but neither results nor datasets
	rm -rf .venv .venv-peers build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
