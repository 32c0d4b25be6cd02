# Targets for people; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help build demo test oracle queues apps mutants doors soak lint bench check clean tools

CARGO ?= cargo
export PATH := $(HOME)/.cargo/bin:$(PATH)
# Tests run as they are: no byte code beside the sources.
export PYTHONDONTWRITEBYTECODE := 1

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

build: tools ## target/release/libtcpreload.so and target/release/tcpreload
	$(CARGO) build --release --locked --workspace

demo: build ## a Python server under wrk, on the kernel's TCP and under tcpreload
	python3 python-tests/demo.py

test: build ## everything: unit, simulation, launcher and tools, programs against the kernel as oracle
	$(CARGO) test --workspace --locked
	python3 python-tests/run.py

oracle: build ## only the programs; ARGS="-k epoll -v" chooses (python-tests/run.py --help)
	python3 python-tests/run.py $(ARGS)

queues: build ## the listen queues, full and overflowing: Linux and tcpreload side by side
	python3 python-tests/queues.py

apps: build ## the tests with the long ones: 1 GiB, 50,000 requests, every server with every client, the list of programs
	python-tests/tools.sh all
	python3 python-tests/run.py --all

mutants: build ## breaks bind, listen, accept and connect on purpose, and tells whether the tests notice
	python3 python-tests/mutants.py

doors: build ## takes each function of libc that is overridden out of the library, and tells whether the tests notice
	python3 python-tests/doors.py

soak: build ## redis, nginx and a Python server under connections that come and go; SECONDS=3600
	python3 python-tests/endurance.py $(SECONDS)

lint: tools ## formatting, clippy and rustdoc, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked
	python3 -W error -c 'import ast, pathlib; [ast.parse(p.read_text(), str(p)) for p in pathlib.Path("python-tests").rglob("*.py")]'

bench: build ## echo requests and bulk, beside the kernel's TCP in the same run
	python3 python-tests/bench.py

check: lint test ## what a change has to pass

clean: ## removes what was built
	$(CARGO) clean

# What the targets need and a bare Debian or Ubuntu machine has not. Nothing is done where nothing is missing.
tools:
	@python-tests/tools.sh
