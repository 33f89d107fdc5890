# The everyday commands. `make test` is what CI runs; `make demo` is the shortest way to an answer.

CARGO ?= cargo
PYTHON ?= python3
VIDENSE = ./target/release/vidense
# DESTDIR: staging directory of a packager. PREFIX: final location of the files.
PREFIX ?= $(if $(DESTDIR),/usr/local,$(shell test -w /usr/local/bin && echo /usr/local || echo $$HOME/.local))
BIN_DIR = $(DESTDIR)$(PREFIX)/bin
SHARE = $(DESTDIR)$(PREFIX)/share
MAN_DIR = $(SHARE)/man/man1
BASH_DIR = $(SHARE)/bash-completion/completions
ZSH_DIR = $(SHARE)/zsh/site-functions
FISH_DIR = $(SHARE)/fish/vendor_completions.d
ASK = $(VIDENSE) ask samples/three_shapes.mp4

.DEFAULT_GOAL := help
.PHONY: help setup build install demo test lint doc accuracy ablation questions differential page clients

help: ## list these targets
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/'

setup: ## install missing system packages of the build (FFmpeg, clang)
	@.ci/setup.sh

build: setup ## build the release binary
	$(CARGO) build --release --locked

# The binary is built only if it is missing: `make build && sudo make install` needs no cargo as root.
install: | $(VIDENSE) ## install the binary, completions and manual pages into PREFIX (/usr/local if writable, else ~/.local)
	install -d $(BIN_DIR) $(MAN_DIR) $(BASH_DIR) $(ZSH_DIR) $(FISH_DIR)
	install -s -m 755 $(VIDENSE) $(BIN_DIR)/vidense
	$(VIDENSE) completions bash > $(BASH_DIR)/vidense
	$(VIDENSE) completions zsh > $(ZSH_DIR)/_vidense
	$(VIDENSE) completions fish > $(FISH_DIR)/vidense.fish
	$(VIDENSE) man --out $(MAN_DIR)

$(VIDENSE):
	$(MAKE) build

demo: build ## build, then ask the built-in model about the sample clip
	$(ASK) "What color is the circle?"
	$(ASK) "How many objects are there?"

# One recipe, cheapest check first: a formatting error should not cost a full build. Times on 2 cores.
test: setup ## everything that CI checks, slow tests included
	@echo "a cold build takes 10 to 20 minutes, a warm one 3 to 6; then tests 6 to 8; make quick leaves out the slow ones"
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked -- --include-ignored
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

quick: setup ## tests that take seconds
	$(CARGO) test --locked

lint: setup ## formatting and clippy only
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc: setup ## API documentation; warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

accuracy: build ## accuracy of vidense-mini on worlds that it was not trained on
	$(VIDENSE) world --seed 5001 --images 215 --out target/accuracy/images
	$(VIDENSE) world --seed 5002 --videos 120 --out target/accuracy/videos
	$(VIDENSE) eval target/accuracy/images/questions.jsonl --temporal concat
	$(VIDENSE) eval target/accuracy/videos/questions.jsonl

differential: build ## every kind of checkpoint against transformers, token by token (requires the packages named in tests/differential/run.py)
	$(PYTHON) tests/differential/run.py --binary $(VIDENSE)

page: build ## the page of `vidense serve` in Chromium (Playwright is installed into target/page)
	test -x target/page/bin/python || $(PYTHON) -m venv target/page
	-target/page/bin/python -m pip install -q playwright axe-playwright-python
	target/page/bin/python tests/page/test_page.py --binary $(VIDENSE)

clients: build ## unmodified clients of other projects against `vidense serve` (installed into target/clients; lmms-eval brings PyTorch)
	$(PYTHON) tests/clients/run.py --binary $(VIDENSE) $(CLIENTS)

questions: build ## cost of further questions about one video
	$(CARGO) run --release --locked --example questions

ablation: build ## table of connectors and temporal strategies (about 45 minutes on 2 cores)
	$(CARGO) run --release --locked --example ablation
