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
ifeq ($(config),msan)
$(B)/libvitrun.a $(B)/libvitrun.so $(B)/tests/checks/canary: $(OBJ)/tests/checks/serial_omp.o
endif

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
