# The README's two commands. Each makes .venv where it is missing and installs what it needs; either may come first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test lint bench clean

demo: $(VENV)/.demo
	$(BIN)/quantizer-sdk demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/engine_scaling.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# foolbox is wanted for its 20 labelled images only, hence without its dependencies.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing quantizer-sdk[demo] into $(VENV) (torch and executorch: some minutes the first time)"
	$(PIP) --editable ".[demo]"
	$(PIP) --no-deps foolbox==3.3.4
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing quantizer-sdk[dev] into $(VENV) (torch and executorch: some minutes the first time)"
	$(PIP) --editable ".[dev]"
	$(PIP) --no-deps foolbox==3.3.4
	@touch $@
