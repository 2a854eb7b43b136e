# Every target works from a fresh clone: it creates .venv first if needed. See `make help`.
PYTHON ?= python3
CONFIG ?= configs/cifar10.yaml
SHELL := bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# An option whose value is a path, which may contain spaces; ~ is the home folder, as in a shell.
path = $(if $2,--$1 "$(patsubst ~/%,$(HOME)/%,$2)")

# Options given on the make command line, as the command line of robustnorm spells them.
OPTIONS = $(call path,config,$(CONFIG)) \
	$(call path,data,$(DATA)) $(if $(SEED),--seed $(SEED)) $(if $(EPOCHS),--epochs $(EPOCHS)) \
	$(if $(LIMIT),--test_limit $(LIMIT)) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) \
	$(if $(ATTACKS),--attacks '[$(ATTACKS)]') $(if $(CHECKS),--checks $(CHECKS)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup demo train eval reproduce referee report compare campaign reproducecpu sweep table1 table2 figure7 test check format bench benchgpu traps fuzz soak audit clean

help: ## Show targets and variables
	@echo "usage: make TARGET [VARIABLE=value ...]"
	@echo
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@echo
	@echo "  NORM        bn, modenorm, auxbn, saauxbn, auxstatbn, ccbn or sabn (train)"
	@echo "  CONFIG      settings, a file or a name in configs/ (now: $(CONFIG))"
	@echo "  DATA        digits, cifar10, or the path of an image folder or its archive"
	@echo "  SEED        seed of the run             EPOCHS   passes over the data"
	@echo "  SEEDS       of table1, table2 and figure7, such as SEEDS=0,1,2"
	@echo "  CONTENT, STYLE  folders of pictures (figure7)"
	@echo "  CHECKPOINT  best, last or epoch190      LIMIT    test images to evaluate"
	@echo "  RUNS        folders of runs, result records or folders of them (compare)"
	@echo "  BUDGET      seconds that campaign may take; the same command continues afterwards"
	@echo "  ATTACKS     further attacks             CHECKS   of the evaluation: none, quick or full"
	@echo "              such as ATTACKS=pgd-50x5-margin,autoattack"
	@echo "  ARGS        any other setting, such as ARGS='--width 16 --precision bf16'"

setup: $(STAMP) ## Create .venv with everything that the other targets need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## Train four norms and a control on digits, print Tables 3 and 4 (minutes, no download)
	$(BIN)/robustnorm demo $(ARGS)

train: setup ## Train one norm: make train NORM=saauxbn
	$(if $(NORM),,$(error make train needs NORM, for example: make train NORM=saauxbn))
	$(BIN)/robustnorm train --norm $(NORM) $(OPTIONS)

eval: setup ## Evaluate all trained runs, print Tables 3 and 4
	$(BIN)/robustnorm eval $(OPTIONS)

reproduce: setup ## Train the four norms and a control, then eval
	$(BIN)/robustnorm reproduce $(OPTIONS)

referee: CONFIG = configs/digits.yaml
referee: setup ## Compare the attack worst with AutoAttack on what is trained: make referee LIMIT=100
	$(BIN)/robustnorm referee $(OPTIONS)

report: setup ## Write reports/<config>/report.html from the evaluations
	$(BIN)/robustnorm report $(call path,config,$(CONFIG)) $(ARGS)

compare: setup ## Compare runs or records in one table and page: make compare RUNS='A B'
	$(if $(RUNS),,$(error make compare needs RUNS, for example: make compare RUNS='reports/digits mine.json'))
	$(BIN)/robustnorm compare $(RUNS) $(ARGS)

campaign: CONFIG = configs/campaign.yaml
campaign: setup ## Tables 3 and 4 at full scale, in slices of time: make campaign BUDGET=540
	$(BIN)/robustnorm campaign $(call path,config,$(CONFIG)) $(if $(BUDGET),--budget $(BUDGET)) \
		$(call path,data,$(DATA)) $(ARGS)

reproducecpu: CONFIG = configs/campaign-cpu.yaml
reproducecpu: setup ## Tables 3 and 4 with three seeds on CPU cores: make reproducecpu DATA=<CIFAR-10>
	$(BIN)/robustnorm campaign $(call path,config,$(CONFIG)) $(if $(BUDGET),--budget $(BUDGET)) \
		$(call path,data,$(DATA)) $(ARGS)

sweep: setup ## Train and evaluate norms x seeds as jobs: make sweep ARGS='--workers 4'
	$(BIN)/robustnorm sweep $(CONFIG) $(ARGS)

table1: CONFIG = configs/gan-cpu.yaml
table1: setup ## Train three GANs with two norms, print Table 1: make table1 DATA=<CIFAR-10> SEEDS=0,1
	$(BIN)/robustnorm table1 $(call path,config,$(CONFIG)) $(call path,data,$(DATA)) \
		$(if $(SEEDS),--seeds '[$(SEEDS)]') $(ARGS)

table2: CONFIG = configs/nas-cpu.yaml
table2: setup ## Search cells with four norms, print Table 2: make table2 DATA=<CIFAR-10> SEEDS=0,1
	$(BIN)/robustnorm table2 $(call path,config,$(CONFIG)) $(call path,data,$(DATA)) \
		$(if $(SEEDS),--seeds '[$(SEEDS)]') $(ARGS)

figure7: CONFIG = configs/style-cpu.yaml
figure7: setup ## Style transfer, Figures 7 and 8: make figure7 DATA=<CIFAR-10> SEEDS=0,1
	$(BIN)/robustnorm figure7 $(call path,config,$(CONFIG)) $(call path,data,$(DATA)) \
		$(call path,content,$(CONTENT)) $(call path,style,$(STYLE)) \
		$(if $(SEEDS),--seeds '[$(SEEDS)]') $(ARGS)

# One worker per core, one thread each; tests of one file share fixtures, files with slow tests begin.
PYTEST = $(BIN)/pytest -q -n auto --dist loadfile --no-loadscope-reorder

test: setup ## Run all tests except the slow ones (three and a half minutes on two cores)
	$(PYTEST) -m 'not slow'

check: setup ## Format, lint, types, import order, all tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

format: setup ## Format the code and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## Run the benchmarks, into reports/benchmarks.md
	set -o pipefail; ( echo "# Benchmarks"; for table in training_step evaluation folded roofline growth; do \
		echo; $(BIN)/python -m benchmarks.$$table || exit 1; done ) | tee reports/benchmarks.md

benchgpu: setup ## Run the GPU benchmark, into reports/benchmarks-gpu.md
	table=$$($(BIN)/python -m benchmarks.gpu $(ARGS)) && echo "$$table" | tee reports/benchmarks-gpu.md

traps: setup ## Evaluate inputs of known robust accuracy with four tools, into reports/traps.md (7 minutes)
	table=$$($(BIN)/python tests/traps) && echo "$$table" | tee reports/traps.md

fuzz: setup ## Feed 100,000 generated inputs to everything that reads files and settings (10 minutes)
	$(BIN)/python tests/fuzz $(ARGS)

soak: setup ## Kill runs, damage files, exhaust resources, into reports/reliability.md (10 minutes)
	set -o pipefail; ( echo "# Reliability"; echo; echo "What \`make soak\` printed."; for part in kills damage together full workers cost faults; do \
		echo; $(BIN)/python -m benchmarks.soak.$$part || exit 1; done ) | tee reports/reliability.md

audit: ## Compare the pinned packages with known advisories (see docs/security.md)
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip --strict

clean: ## Remove .venv and caches, not checkpoints or reports
	rm -rf $(VENV) .audit .pytest_cache .mypy_cache .ruff_cache
