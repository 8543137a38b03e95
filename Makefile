# make demo     install, convert a bundled checkpoint to INT4, chat with it, print its speed
# make test     install what the tests need, run them all
# make check    lint, format, types, docs
# make docs     the docs site, into site/
# make clean    remove .venv and everything that was built
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what it imports; compiling all that is installed takes most of an install's time.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile

# Material's notice about its successor.
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test check docs clean

demo: $(VENV)/installed-demo
	$(BIN)/baichuan-intel demo

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

check: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --platform linux
	$(BIN)/mypy --platform win32
	$(BIN)/mkdocs build --strict --quiet

docs: $(VENV)/installed-dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# One venv for all; each stamp says that an extra is in it, as pyproject.toml asks for it now.
$(VENV)/installed-demo: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[convert]'
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/installed-demo

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/installed-test $(VENV)/installed-demo
