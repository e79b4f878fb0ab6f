# The front door.  `make help` lists the targets; CMake presets do the work.
.PHONY: all demo test check bench bench-peers fuzz soak format lint install agent docs help clean setup
B ?= build/release
PREFIX ?= /usr/local

all: setup ## build the program and the libraries (build/release)
	@cmake --preset release $(if $(wildcard build/release/build.ninja),>/dev/null) && cmake --build build/release --target product

setup:
	@tools/setup.sh build

demo: all ## eight device processes improve a small language model together
	@tools/demo.sh build/release/octomil $(DEMO)

test: setup ## build with fault injection and run every test
	@cmake --preset dev >/dev/null && cmake --build build/dev && tools/run-tests.sh build/dev

check: ## test under sanitizers, clang, aarch64, and lint
	@tools/setup.sh check && tools/check.sh

bench: all ## measure, beside a peer where one is named in the environment
	@tools/bench.sh

bench-peers: all ## our speed in turns with the llama-bench programs named in the environment
	@cmake --build build/release --target bench_model && bench/peers.sh $(MODELS)

fuzz: ## ten minutes of every fuzz target (FUZZ_SECONDS=600)
	@tools/setup.sh check && tools/fuzz.sh $(or $(FUZZ_SECONDS),600)

soak: setup ## hundreds of kill -9 of coordinator and devices (KILLS=200)
	@cmake --preset dev >/dev/null && cmake --build build/dev --target test_net
	@OM_SOAK_KILLS=$(or $(KILLS),200) build/dev/test/test_net killed

agent: setup ## octomil-agent alone: no database, no web server
	@cmake --preset agent >/dev/null && cmake --build build/agent

lint: ## floors, banned calls, sizes
	@tools/lint.sh

format: ## clang-format in place
	@clang-format -i $$(find src include test fuzz bench -name '*.[ch]')

docs: all ## write docs/reference.md from the program's tables
	@build/release/octomil reference > docs/reference.md

install: all ## PREFIX=/usr/local
	@cmake --install build/release --prefix $(PREFIX)

clean: ## remove every build
	@rm -rf build

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile
