# `make run` and `make test` set up everything they need; nothing but Python is assumed. What tests
# need from the system is installed too, where that is Debian's and may be done.
PYTHON ?= python3
BIN := .venv/bin
# One thread a process, since the small models of the tests gain nothing by more; one process more than there are cores,
# since many tests wait for servers and processes that they start.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile

.PHONY: run test check soak format clean system

run: .venv/ready
	@echo "== quickstart"
	$(BIN)/python examples/quickstart.py

test: .venv/ready system
	@echo "== tests"
	$(PYTEST)

check: .venv/ready system
	@echo "== format, lint, docstrings"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@echo "== types"
	$(BIN)/mypy
	@echo "== import walls"
	$(BIN)/lint-imports
	@echo "== tests"
	$(PYTEST)

soak: .venv/ready
	@echo "== policies are rewritten while threads check"
	$(BIN)/python -m tests.soak
	@echo "== the server under load, overload, idle clients, and with a worker that is killed"
	$(BIN)/python -m benchmarks.serving --seconds 60 --overload 60 --out build/soak
	@echo "== two nodes of Ray, updates and a node that dies"
	for _ in 1 2 3 4 5; do $(BIN)/python -m pytest -q tests/integrations/test_ray_serve.py || exit 1; done

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml constraints.txt
	@echo "== making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lec-guard needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@echo "== installing lec-guard and its tools, pinned by constraints.txt"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cli,embedded,haystack,langchain,litellm,llama-index,mcp,onnx,openai-agents,otel,pii,policies,prometheus,queue,ray,serve,train,tune,dev]'
	@touch $@

# Not a stamp: a .venv may outlive the system that it was made on, and to look takes no time.
system:
	@sh tests/system.sh

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
