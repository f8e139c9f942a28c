# ---- the same tests under tools that watch memory and threads ----
# Libraries must be instrumented, too, or left out: the OpenMP of ThreadSanitizer is clang's, which tells
# it what waits for what; MemorySanitizer has none, and a jansson of its own.
.PHONY: test-sanitize test-tsan test-msan test-valgrind
test-sanitize:
	$(MAKE) config=sanitize test
test-tsan:
	$(MAKE) config=tsan CC=clang ONEDNN=0 test
MSAN_JANSSON := build/msan/jansson/libjansson.a
test-msan: $(MSAN_JANSSON)
	$(MAKE) config=msan CC=clang ONEDNN=0 LIBJPEG=0 JANSSON='$(MSAN_JANSSON)' test
$(MSAN_JANSSON):
	tests/checks/msan_jansson.sh $(@D)

# valgrind runs the usual programs: each has a stand-in in build/valgrind/ that starts it so.
VALGRIND_BIN := $(patsubst $(B)/%,$(B)/valgrind/%,$(B)/vitrun $(TEST_BIN) $(B)/tests/checks/canary)
VALGRIND := valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect \
            --errors-for-leak-kinds=definite,indirect
$(VALGRIND_BIN): $(B)/valgrind/%: $(B)/%
	@mkdir -p $(@D)
	@printf '#!/bin/sh\nexec $(VALGRIND) --log-file="$${VALGRIND_LOG:-/dev/stderr}" "%s" "$$@"\n' '$(CURDIR)/$<' >$@
	@chmod +x $@
test-valgrind: $(VALGRIND_BIN)
	@B=$(B)/valgrind tests/run.sh tests/checks/awake.sh $(filter-out %/vitrun %/canary,$(VALGRIND_BIN)) \
	 $(sort $(wildcard tests/cli/test_*.sh))

$(B)/tests/checks/canary: $(OBJ)/tests/checks/canary.o
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(LDFLAGS) -o $@ $^

# ---- long use: a million pictures, ten thousand models; a short form of it is a test ----
IMAGES ?= 1000000
LOADS  ?= 10000
.PHONY: soak
soak: $(B)/tests/soak
	$(B)/tests/soak --images $(IMAGES) --loads $(LOADS)

# ---- static analysis of every file: gcc -fanalyzer, then clang-tidy (.clang-tidy says what) ----
# gcc's analyser takes the parts of a vector for uninitialised, and its width for that of a number.
.PHONY: analyze
ANALYSED := $(filter-out weights_tools/timm_archs.c weights_tools/imagenet_labels.c,$(SRC) $(CLI_SRC) $(ISA_SRC))
ANALYSIS = -std=c11 -O1 -fopenmp $(WARNINGS) $(filter-out -MMD -MP,$(CPPFLAGS)) \
           $(if $(filter kernels/cpu/isa_%,$<),-DVT_ISA=$(word 2,$(ISAS) generic) $(ISA_FLAGS_$(word 2,$(ISAS))) \
             -Wno-analyzer-shift-count-overflow -Wno-analyzer-use-of-uninitialized-value) \
           $(if $(filter kernels/status.c engine/experiments/measure.c engine/image/decode.c,$<),,-include tests/checks/analysis.h)
analyze: $(ANALYSED:%.c=$(B)/analysis/%.ok)
$(B)/analysis/%.ok: %.c .clang-tidy tests/checks/analysis.h $(shell git ls-files '*.h')
	@mkdir -p $(@D)
	$(call say,ANALYSE,$<)gcc -fanalyzer -Werror $(ANALYSIS) -c -o /dev/null $< && \
	  clang-tidy --quiet $< -- $(ANALYSIS) -Wno-unknown-warning-option 2>/dev/null
	@touch $@

# ---- what of our code the tests run, a file a line: tests/coverage.py build/coverage -v FILE shows the rest ----
.PHONY: coverage
coverage:
	find build/coverage -name '*.gcda' -delete 2>/dev/null || true
	$(MAKE) config=coverage CUDA=0 test
	tests/coverage.py build/coverage
