# Fuzzing: `make fuzz SECONDS=600 TARGETS="masks images"`; tests/fuzz/README.md. Included by the Makefile.
.PHONY: fuzz fuzz-replay
FUZZ_TARGETS := $(patsubst tests/fuzz/target_%.c,%,$(wildcard tests/fuzz/target_*.c)) images_stb
FUZZ_AUX     := $(OBJ)/tests/fuzz/fuzz.o $(OBJ)/tests/fuzz/mutate.o
FUZZ_BIN     := $(FUZZ_TARGETS:%=$(B)/fuzz/%)
SECONDS ?= 60
TARGETS ?= $(FUZZ_TARGETS)

fuzz: # in a make of its own, for config=fuzz
	@$(MAKE) --no-print-directory config=fuzz $(TARGETS:%=build/fuzz/fuzz/%)
	@tests/fuzz/run.sh build/fuzz/fuzz $(SECONDS) $(TARGETS)

# Many answers of the safetensors reader, for differential.py.
ANSWER := $(B)/fuzz/answer_safetensors
$(ANSWER): $(OBJ)/tests/fuzz/answer_safetensors.o $(B)/libvitrun.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

fuzz-replay: $(FUZZ_BIN) $(ANSWER)

ifeq ($(config),fuzz)
# What reads untrusted numbers may not even wrap or narrow them; hashes and random numbers do.
STRICT := $(patsubst %.c,$(OBJ)/%.o,$(wildcard weights_tools/*.c engine/image/*.c engine/masks/*.c))
$(filter-out %/stb.o %/random.o %/pattern_env.o,$(STRICT)): CFLAGS += -fsanitize=unsigned-integer-overflow,implicit-conversion
# Arithmetic has no branches that inputs choose: leave out what follows them.
$(foreach d,kernels kernels/cpu models,$(patsubst %.c,$(OBJ)/%.o,$(wildcard $(d)/*.c))) $(OBJ)/engine/image/resize.o \
  $(filter $(OBJ)/kernels/cpu/isa_%,$(LIB_OBJ)): CFLAGS += -fno-sanitize-coverage=inline-8bit-counters,pc-table -Wno-pass-failed
FUZZ_MAIN := -fsanitize=fuzzer
else # without libFuzzer: programs that run given inputs
FUZZ_MAIN := $(OBJ)/tests/fuzz/replay.o
endif

$(FUZZ_BIN): $(B)/fuzz/%: $(OBJ)/tests/fuzz/target_%.o $(FUZZ_AUX) $(filter %.o,$(FUZZ_MAIN)) $(B)/libvitrun.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(LDFLAGS) $(filter -%,$(FUZZ_MAIN)) -o $@ $(filter-out %.a,$^) $(filter %.a,$^) $(LDLIBS)
$(B)/fuzz/cli: $(filter-out %/main.o,$(CLI_OBJ)) $(OBJ)/tests/cli/capture.o
# The same pictures through stb_image: these two come before the library's.
$(B)/fuzz/images_stb: $(OBJ)/engine/image/jpeg.stb.o $(OBJ)/engine/image/stb.stb.o
$(OBJ)/tests/fuzz/target_images_stb.o: $(OBJ)/tests/fuzz/target_images.o
	@cp $< $@
$(OBJ)/engine/image/stb.stb.o: CFLAGS += -fwrapv
$(OBJ)/%.stb.o: %.c $(OBJ)/flags
	$(call say,CC,$<)$(CC) $(CPPFLAGS) -UVT_LIBJPEG -DVT_LIBJPEG=0 $(CFLAGS) -c -o $@ $<
