# vitrun: `make help` lists the targets.
#
# config=release (build/) | debug | coverage | sanitize | tsan | msan | fuzz (each in build/CONFIG/)
# CC=gcc | clang          werror=1: warnings are errors
# V=1                     show whole commands
# harden=0                release without the flags that make attacks harder
# ONEDNN=0 LIBJPEG=0 CUDA=0   build without oneDNN, libjpeg, CUDA (their absence is noticed by itself)
# CUDA_ARCHS=90a          machine code for these GPUs only (quick, while working); CUDA_HOME=DIR, NVCC=...

config ?= release
werror ?= 0

ifeq ($(config),release)
B := build
else
B := build/$(config)
endif
OBJ := $(B)/obj
ifeq ($(config),fuzz) # libFuzzer is part of clang
CC := clang
ONEDNN := 0
endif

# ---- what the machine has ----
ARCH := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
HASH := \#
have = $(shell printf '$(HASH)include <$(1)>\nint main(void){return 0;}' | $(CC) -xc - -fsyntax-only 2>/dev/null && echo 1 || echo 0)
ifndef ONEDNN
ONEDNN := $(call have,oneapi/dnnl/dnnl.h)
endif
ifndef LIBJPEG
LIBJPEG := $(call have,stdio.h>\n$(HASH)include <jpeglib.h)
endif

# CUDA: where nvcc is found. The program still starts where no NVIDIA library is installed: the runtime
# is linked statically, cuBLASLt and the driver are opened at run time.
NVCC      ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA      ?= $(if $(filter release debug,$(config)),$(if $(NVCC),1,0),0)
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA_ARCHS ?= 80 86 89 90a
COMMA     := ,
ifeq ($(CUDA),1)
CUDA_LIB  := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/targets/*/lib))
GENCODE   := $(foreach a,$(CUDA_ARCHS),-gencode=arch=compute_$(a),code=sm_$(a)) \
             $(if $(filter 80,$(CUDA_ARCHS)),-gencode=arch=compute_80$(COMMA)code=compute_80)
NVCCFLAGS := -std=c++17 -O3 -I. -ccbin $(CC) -Xcompiler -fPIC,-Wall,-Wextra -MMD -MP $(GENCODE)
CUDA_CPPFLAGS := -isystem $(CUDA_HOME)/include
CUDA_LDLIBS   := -L$(CUDA_LIB) -lcudart_static -lstdc++ -ldl -lrt
endif

JANSSON ?= -ljansson

# ---- flags ----
CPPFLAGS += -I. -D_GNU_SOURCE -DVT_ONEDNN=$(ONEDNN) -DVT_LIBJPEG=$(LIBJPEG) -DVT_CUDA=$(CUDA) $(CUDA_CPPFLAGS) -MMD -MP
WARNINGS := -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wconversion \
            $(if $(findstring clang,$(CC)),-Wno-sign-conversion) # there, of every enumeration, too
CFLAGS   += -std=c11 $(WARNINGS) -fPIC -fvisibility=hidden -fopenmp -ffp-contract=off \
            -fno-math-errno -fno-trapping-math -g
LDLIBS   += $(JANSSON) -lm -lpthread $(if $(filter 1,$(ONEDNN)),-ldnnl) $(if $(filter 1,$(LIBJPEG)),-ljpeg) \
            $(CUDA_LDLIBS)
LDFLAGS  += -fopenmp
ifeq ($(werror),1)
CFLAGS += -Werror
endif
# What costs an attacker more than it costs us: tests/checks/hardened.sh looks for it in what was built.
ifneq ($(harden),0)
HARDENED := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection \
            $(if $(filter x86_64,$(ARCH)),-fcf-protection) $(if $(filter aarch64,$(ARCH)),-mbranch-protection=standard)
HARDENED_LINK := -Wl,-z,relro,-z,now,-z,noexecstack
endif
ifeq ($(config),release)
CFLAGS += -O3 $(HARDENED)
LDFLAGS += $(HARDENED_LINK)
PIE := -pie
else ifeq ($(config),debug)
CFLAGS += -O1
else ifeq ($(config),sanitize)
CFLAGS += -O1 -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined
LDFLAGS += -fsanitize=address,undefined
else ifeq ($(config),tsan)
CFLAGS += -O1 -fsanitize=thread -fno-omit-frame-pointer
LDFLAGS += -fsanitize=thread
else ifeq ($(config),msan)
CFLAGS += -O1 -fsanitize=memory -fsanitize-memory-track-origins -fno-omit-frame-pointer -fno-openmp -Wno-unknown-pragmas
LDFLAGS += -fsanitize=memory -fno-openmp
else ifeq ($(config),coverage)
CFLAGS += -O0 --coverage
LDFLAGS += --coverage
else ifeq ($(config),fuzz)
CFLAGS += -O2 -fsanitize=fuzzer-no-link,address,undefined,float-cast-overflow -fno-sanitize-recover=all \
          -fno-sanitize-coverage=trace-cmp # dictionaries know the words that it would find, at a third of the time
LDFLAGS += -fsanitize=address,undefined
else
$(error config=$(config): expected release, debug, coverage, sanitize, tsan, msan or fuzz)
endif

# V=1 shows whole commands.
V ?= 0
say = $(if $(filter 0,$(V)),@echo '  $(1)  $(2)';)

# ---- sources: every .c of the product; kernels/cpu/isa_*.c once per instruction set ----
ISA_SRC  := $(wildcard kernels/cpu/isa_*.c)
CUDA_SRC := $(if $(filter 1,$(CUDA)),$(wildcard kernels/cuda/*.cu))
SRC      := $(filter-out $(ISA_SRC),$(wildcard kernels/*.c kernels/cpu/*.c weights_tools/*.c models/*.c \
            engine/*.c engine/image/*.c engine/masks/*.c engine/experiments/*.c)) \
            $(if $(filter 1,$(CUDA)),$(wildcard kernels/cuda/*.c))
CLI_SRC  := $(wildcard engine/cli/*.c)
ifneq ($(filter x86_64,$(ARCH)),)
ISAS := generic avx2 avx512
else
ISAS := generic
endif
ISA_FLAGS_generic :=
ISA_FLAGS_avx2    := -mavx2 -mfma
ISA_FLAGS_avx512  := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mprefer-vector-width=512
LIB_OBJ  := $(SRC:%.c=$(OBJ)/%.o) $(CUDA_SRC:%.cu=$(OBJ)/%.o) \
            $(foreach isa,$(ISAS),$(ISA_SRC:%.c=$(OBJ)/%.$(isa).o)) \
            $(if $(filter msan,$(config)),$(OBJ)/tests/checks/serial_omp.o)
CLI_OBJ  := $(CLI_SRC:%.c=$(OBJ)/%.o)

# Those of the GPU, which only builds with CUDA have, say so in their names.
GPU_TEST := $(shell find tests -name 'test_cuda*.c')
TEST_SRC := $(sort $(filter-out $(if $(filter 1,$(CUDA)),,$(GPU_TEST)),$(shell find tests -name 'test_*.c')))
TEST_AUX := $(wildcard tests/oracle.c tests/support*.c)
CANARY   := $(if $(filter sanitize tsan msan,$(config)),$(B)/tests/checks/canary)
BENCH_BIN := $(patsubst tests/%.c,$(B)/tests/%,$(filter-out $(if $(filter 1,$(CUDA)),,%_cuda.c),\
             $(wildcard tests/bench_*.c tests/soak.c)))
TEST_BIN := $(TEST_SRC:%.c=$(B)/%)

.PHONY: all bench help setup demo test test-gpu test-gpu-sanitize check-layers format clean
.PRECIOUS: $(OBJ)/%.o
all: $(B)/vitrun $(B)/libvitrun.so

help:
	@echo 'make               build $(B)/vitrun, $(B)/libvitrun.a, $(B)/libvitrun.so'
	@echo 'make setup         install the packages that the build needs (Debian, Ubuntu)'
	@echo 'make demo          run vitrun on samples/, with and without masks'
	@echo 'make test          build and run all tests'
	@echo 'make test-gpu      the tests that need a GPU; test-gpu-sanitize: under compute-sanitizer'
	@echo 'make test-sanitize the same under AddressSanitizer and UndefinedBehaviorSanitizer; test-tsan,'
	@echo '                   test-msan (clang), test-valgrind: under ThreadSanitizer, MemorySanitizer, valgrind'
	@echo 'make analyze       gcc -fanalyzer and clang-tidy over every file'
	@echo 'make soak          a million pictures and ten thousand models (IMAGES=, LOADS=): memory stays flat'
	@echo 'make fuzz          fuzz what reads files: SECONDS=60 a target, TARGETS="masks images"'
	@echo 'make install       [PREFIX=/usr/local] [DESTDIR=]; install-strip, uninstall; deb: a package'
	@echo 'make test-faults   memory and file calls fail in turn, all of them; coverage: lines and branches run by tests'
	@echo 'make format        lay out the code with clang-format'
	@echo 'make clean         remove build/'
	@echo 'config=release|debug|coverage|sanitize|tsan|msan|fuzz  ONEDNN=0  LIBJPEG=0  CUDA=0  CC=clang  werror=1'

$(B)/libvitrun.a: $(LIB_OBJ)
	@mkdir -p $(@D)
	@rm -f $@
	$(call say,AR,$@)ar rcs $@ $^

$(B)/libvitrun.so: $(LIB_OBJ) engine/install/libvitrun.map
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=engine/install/libvitrun.map \
	    $(LDFLAGS) -o $@ $(LIB_OBJ) $(LDLIBS)
	@ln -sf libvitrun.so $(B)/$(SONAME)

$(B)/vitrun: $(CLI_OBJ) $(B)/libvitrun.a
	$(call say,LD,$@)$(CC) $(LDFLAGS) $(PIE) -o $@ $^ $(LDLIBS)

# Objects made with other flags or another compiler are made again.
FLAGS := $(CC) $(CPPFLAGS) $(CFLAGS)
$(OBJ)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' >$@
FORCE:

# Kernels may fuse multiply and add; everything else computes exactly what it says.
define isa_rule
$(OBJ)/%.$(1).o: %.c $(OBJ)/flags
	@mkdir -p $$(@D)
	$(call say,CC,$$<)$(CC) $(CPPFLAGS) -DVT_ISA=$(1) $(CFLAGS) -ffp-contract=fast $(ISA_FLAGS_$(1)) -c -o $$@ $$<
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))

# stb lets sums of broken files overflow: make that defined.
$(OBJ)/engine/image/stb.o: CFLAGS += -fwrapv
$(OBJ)/%.o: %.c $(OBJ)/flags
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(OBJ)/%.o: %.cu $(OBJ)/nvcc_flags
	@mkdir -p $(@D)
	$(call say,NVCC,$<)$(NVCC) $(NVCCFLAGS) -c -o $@ $<
$(OBJ)/nvcc_flags: FORCE
	@mkdir -p $(@D)
	@echo '$(NVCC) $(NVCCFLAGS)' | cmp -s - $@ || echo '$(NVCC) $(NVCCFLAGS)' >$@

# ---- tests: one program a file, linked with the static library (internals are visible there) ----
$(TEST_BIN) $(BENCH_BIN): $(B)/tests/%: $(OBJ)/tests/%.o $(TEST_AUX:%.c=$(OBJ)/%.o) $(B)/libvitrun.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) -lcmocka $(LDLIBS)
# Those of tests/cli/ run whole command lines.
$(filter $(B)/tests/cli/%,$(TEST_BIN)): $(filter-out %/main.o,$(CLI_OBJ)) $(OBJ)/tests/cli/capture.o

bench: $(BENCH_BIN)

test: all $(TEST_BIN) $(BENCH_BIN) $(CANARY) fuzz-replay
	@B=$(B) tests/run.sh $(if $(CANARY),tests/checks/awake.sh) $(TEST_BIN) tests/check_layers.sh tests/check_errors.py \
	    $(if $(PIE),tests/checks/hardened.sh tests/checks/soak.sh) $(sort $(wildcard tests/cli/test_*.sh tests/fuzz/test_*.sh))

# Tests that need a GPU; they fail where there is none.
GPU_BIN := $(GPU_TEST:%.c=$(B)/%)
test-gpu: all $(GPU_BIN)
	@B=$(B) VITRUN_TEST_GPU=1 tests/run.sh $(GPU_BIN) tests/cli/test_cuda.sh

test-gpu-sanitize: all $(GPU_BIN)
	tests/sanitize_gpu.sh $(B)

setup:
	tests/setup.sh

# A make of its own: what setup has just installed is looked for anew.
demo: $(if $(filter setup,$(MAKECMDGOALS)),setup)
	$(MAKE) all
	samples/demo.sh $(B)/vitrun

check-layers:
	tests/check_layers.sh

format:
	clang-format -i $(filter-out weights_tools/timm_archs.c weights_tools/imagenet_labels.c,\
	$(shell git ls-files -co --exclude-standard '*.c' '*.h' '*.cu' '*.cuh'))

clean:
	rm -rf build

include engine/install/install.mk
include tests/checks/checks.mk
include tests/faults/faults.mk
include tests/fuzz/fuzz.mk

-include $(shell find $(OBJ) -name '*.d' 2>/dev/null)
