# `make COMMAND` is `python start.py COMMAND`: all that is done stands in start.py. `make help` lists
# the commands and the variables, which may also be given to make: make course ONLY=10 FORCE=1

export PYTHON TORCH_INDEX ONLY FORCE FAST REAL WORKERS SOAK

COMMANDS := help setup course fetch lab test machines bench soak lint format notebooks nbgrader otter slides pictures clean
PYTHONS  := .venv/bin/python python3.11 python3.12 python3.13 python3 python

.DEFAULT_GOAL := help
.PHONY: $(COMMANDS)

$(COMMANDS):
	@for python in $(PYTHONS); do \
	    if "$$python" -c '' >/dev/null 2>&1; then exec "$$python" start.py $@; fi; \
	done; \
	echo "make: no Python was found; install Python 3.11 or newer" >&2; exit 1
