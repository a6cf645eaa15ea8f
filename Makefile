# make demo, make test, make check, make bench: all in a virtual environment of their own, .venv.

.DEFAULT_GOAL := help
.PHONY: help install demo test clients chaos fuzz simulate placement traffic check format docs bench constraints clean

ARGS ?=
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $$python && break; done)

bin := .venv/bin
installed := .venv/.installed

help: ## show this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(installed) ## make .venv with all that the other words need

# torch first: pip would otherwise weigh its many builds against everything else.
$(installed): pyproject.toml constraints.txt .ci/system-packages
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed, and none is on the" \
		"PATH; name one with: make PYTHON=/path/to/python3.12"; exit 1; }
	@.ci/system-packages $(PYTHON)
	@test -x $(bin)/python || $(PYTHON) -m venv .venv
	$(bin)/pip install -q -c constraints.txt torch
	$(bin)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(installed) ## a swarm here: asks one question, then serves until Ctrl-C (ARGS=--once: stops)
	@exec $(bin)/brigade up --ask "What is Bucket Brigade?" $(ARGS)

# Where a machine has few cores, real time and real processes fail a test now and then: what fails
# is run once more, and said at the end; but not where a value was wrong, e.g. the text of a stream.
test: $(installed) ## run all tests (ARGS="-k name" for some of them)
	$(bin)/python -m pytest $(or $(ARGS),-n 2 --no-loadscope-reorder --reruns 1 --rerun-except 'assert (\W|b.)')

clients: $(installed) ## other makers' clients, brought here, against a real swarm
	tests/clients/bring .clients $(bin)/python
	$(bin)/python -m pytest -m clients $(ARGS)

chaos: $(installed) ## streams while everything goes wrong (ARGS="--minutes 30", "--faults 99 --seed 1")
	$(bin)/python -m tests.swarm.chaos $(ARGS)

check: $(installed) ## format, lint and types, changing nothing
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/pyright

format: $(installed) ## format and sort imports
	$(bin)/ruff check --select I --fix .
	$(bin)/ruff format .

docs: $(installed) ## write .env.example and README's table of settings anew
	$(bin)/python -m tests.test_docs

bench: $(installed) ## list the benchmarks (ARGS=NAME runs one)
	@$(if $(ARGS),$(bin)/python -m tests.bench.$(ARGS),echo "make bench ARGS=NAME, where NAME is:" \
		&& ls tests/bench | sed -n 's/^\([a-z].*\)\.py$$/  \1/p')

fuzz: $(installed) ## a million damaged inputs for what parses strangers' bytes (ARGS="--seed 7")
	$(bin)/python -m tests.fuzz $(ARGS)

simulate: $(installed) ## 100,000 simulated generations over failing workers (ARGS="--runs N")
	$(bin)/python -m tests.simulation.scenarios $(ARGS)

placement: $(installed) ## thousands of simulated workers place themselves, beside rivals (ARGS="--stories N")
	$(bin)/python -m tests.simulation.stories $(ARGS)

traffic: $(installed) ## simulated traffic: our routes beside Petals' and the shortest queue (ARGS="--seeds N")
	$(bin)/python -m tests.simulation.traffic $(ARGS)

constraints: $(installed) ## write constraints.txt anew from what .venv holds
	@{ sed -n '/^#/p' constraints.txt; $(bin)/pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//'; } \
		> .venv/constraints.txt
	@mv .venv/constraints.txt constraints.txt && touch $(installed)

clean: ## remove .venv and everything else that was made
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
