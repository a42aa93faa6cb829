# Every target does its own set-up; `make help` lists them.
#
#   PYTHON=/path/to/python3.12      which interpreter .venv is made with (default: the first that is 3.11 or newer)
#   TORCH_INDEX=https://...         where pip takes torch from, for example PyTorch's CPU-only index
#   ONLY=10                         for `course` and `notebooks`: one lesson
#   WORKERS=4                       for `test`: how many processes share the tests (default: 2)
#   FORCE=1                         for `course` and `notebooks`: execute even what is up to date

SHELL       := /bin/bash
VENV        := .venv
PY          := $(VENV)/bin/python
# The stamp's name is the hash of what the set-up depends on: another hash means another set-up.
STAMP       := $(VENV)/.ready-$(shell cat requirements.txt pyproject.toml | cksum | tr ' ' '-')
# In a container one is often root, which JupyterLab refuses unless told that it is meant.
LAB_FLAGS   := $(if $(filter 0,$(shell id -u)),--allow-root)
WORKERS     ?= 2
BUILD_FLAGS := $(if $(ONLY),--only $(ONLY)) $(if $(FORCE),--force)

.DEFAULT_GOAL := help
.PHONY: help setup course notebooks lab test lint format bench soak pictures clean
.DELETE_ON_ERROR:

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1|/' | awk -F'|' '{ printf "%-18s%s\n", $$1, $$2 }'

setup: $(STAMP)  ## make .venv and install the pinned requirements (the other targets do this by themselves)

course: $(STAMP)  ## run every lesson and write build/course/index.html, to open in a browser
	@$(PY) notebooks/build.py course $(BUILD_FLAGS)

lab: $(STAMP)  ## copy the exercises to work/ (a copy that is there is kept) and open JupyterLab
	@$(PY) notebooks/build.py work
	$(PY) -m jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/work $(LAB_FLAGS)

test: $(STAMP)  ## lint, then every test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -n $(WORKERS) --dist worksteal

bench: $(STAMP)  ## measure speed; the tables go to build/
	$(PY) benchmarks/run.py

soak: $(STAMP)  ## kills, faults, bad inputs, thousands of cycles; counts at the end (SOAK="--seconds 20" for less)
	$(PY) -m soak $(SOAK)

lint: $(STAMP)  ## ruff only
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP)  ## let ruff rewrite the sources
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

notebooks: $(STAMP)  ## for authors: run the lessons that changed and write notebooks/*.ipynb
	@$(PY) notebooks/build.py publish $(BUILD_FLAGS)

pictures: $(STAMP)  ## redraw docs/*.svg
	$(PY) -m minipeft.course.pictures docs

clean:  ## remove build/ (not .venv, not runs/)
	rm -rf build

# Set-up. The stamp is written last, so an interrupted set-up is done again and a finished one is skipped.
$(STAMP):
	@set -euo pipefail; \
	if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	    python=""; \
	    for candidate in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	        if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	            python="$$candidate"; break; \
	        fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "make: no Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	    fi; \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    if ! "$$python" -m venv --clear $(VENV); then \
	        echo "make: $$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	    fi; \
	fi; \
	export PIP_DISABLE_PIP_VERSION_CHECK=1; \
	rm -f $(VENV)/.ready-*; \
	echo "installing torch (the largest part, some minutes on a slow line)"; \
	$(PY) -m pip install --progress-bar off -qq $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' requirements.txt)"; \
	echo "installing requirements.txt"; \
	$(PY) -m pip install --progress-bar off -qq -r requirements.txt; \
	$(PY) -m pip install -qq --no-deps --no-build-isolation -e .; \
	touch $@; \
	echo "set-up finished"
