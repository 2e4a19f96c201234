# `make` or `make help` lists what there is.

CARGO ?= cargo
WITH_SERVERS = target/debug/with-servers

SECONDS ?= 60

.PHONY: help demo image test chaos isolation log bench counts fuzz lint fmt deny clean
.DEFAULT_GOAL := help

help: ## What there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: ## The whole path on real servers, in a minute; KEEP=1 leaves it running
	@scripts/prepare-servers
	$(CARGO) build --locked --quiet --package postrider --package tests --bins
	@$(WITH_SERVERS) -- target/debug/postrider demo $(if $(KEEP),--keep)

test: ## Everything: unit, property, and integration tests on real servers
	@scripts/prepare-servers
	@scripts/install-prometheus
	$(CARGO) build --locked --workspace --all-targets
	@$(WITH_SERVERS) -- scripts/test

chaos: ## Random faults under load, some 20 minutes; SEED=… FAULTS=200 MODE=faults|servers|brief|restarts
	@scripts/install-servers
	$(CARGO) build --locked --quiet --package postrider --package tests --bins
	@target/debug/chaos

isolation: ## How long healthy endpoints wait beside bad ones, measured in one run
	@scripts/prepare-servers
	$(CARGO) build --locked --release --package postrider --package tests --bins
	@POSTRIDER_TEST_ISOLATION=whole target/release/with-servers -- $(CARGO) test --locked --release --package tests \
		--test it isolation -- --nocapture --test-threads 1

log: ## How long the questions to the log take among ROWS=10000000 settled deliveries; some 8 GB of disk
	@scripts/prepare-servers
	$(CARGO) build --locked --package postrider --package tests --bins
	@POSTRIDER_TEST_LOG_ROWS=$(or $(ROWS),10000000) target/debug/with-servers -- $(CARGO) test --locked --package tests \
		--test it long_log -- --nocapture

fuzz: ## What reads strangers' bytes, SECONDS=60 a target; TARGETS="url message"
	@scripts/fuzz $(SECONDS) $(TARGETS)

bench: ## Rates, costs and latencies beside a bare loop, an hour; ROUNDS=5 CASES=… SETTLED=…
	@scripts/install-servers
	$(CARGO) build --locked --quiet --release --package postrider
	@$(CARGO) bench --locked --quiet --package tests --bench bench

counts: ## Instructions of the pure steps, against docs/counts.md; UPDATE_COUNTS=1 writes it anew
	@scripts/install-valgrind
	@$(CARGO) run --locked --quiet --release --package counts

image: ## The container image postrider:latest, tried once it is built; TAG=… PREBUILT=1
	@PREBUILT=$(PREBUILT) scripts/image $(TAG)

lint: ## Format, clippy, docs, dependencies; warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --locked --workspace --no-deps
	$(MAKE) deny

deny: ## Licences, sources and banned crates of the dependencies
	$(CARGO) deny --all-features check bans licenses sources

fmt: ## Format the sources
	$(CARGO) fmt

clean: ## Remove what was built
	$(CARGO) clean
