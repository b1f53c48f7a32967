# `make run` and `make test` set up everything they need; nothing but Python is assumed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check soak format clean

run: .venv/ready
	@echo "== quickstart"
	$(BIN)/python examples/quickstart.py

test: .venv/ready
	@echo "== tests"
	$(BIN)/python -m pytest

check: .venv/ready
	@echo "== format, lint, docstrings"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@echo "== types"
	$(BIN)/mypy
	@echo "== import walls"
	$(BIN)/lint-imports
	@echo "== tests"
	$(BIN)/python -m pytest

soak: .venv/ready
	@echo "== policies are rewritten while threads check"
	$(BIN)/python -m tests.soak

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml constraints.txt
	@echo "== making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lec-guard needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "== installing lec-guard and its tools, pinned by constraints.txt"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cli,embedded,langchain,onnx,otel,pii,policies,prometheus,train,dev]'
	@touch $@

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
