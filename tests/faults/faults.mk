# Tests in which calls fail in turn: what they are linked with, and the long form of them. Included by
# the Makefile.

# faults.o stands between the program and the C library: see tests/faults/faults.h.
$(filter $(B)/tests/faults/%,$(filter-out %/test_cuda_faults,$(TEST_BIN))): $(OBJ)/tests/faults/faults.o $(OBJ)/tests/faults/scenarios.o

WRAPPED := dlsym $(addprefix cuda,SetDevice GetDevice GetDeviceCount GetDeviceProperties \
           DeviceGetAttribute MemGetInfo Malloc Free HostAlloc FreeHost Memcpy MemcpyAsync Memset MemsetAsync \
           EventCreate EventDestroy EventRecord EventSynchronize EventElapsedTime \
           StreamCreateWithFlags StreamDestroy StreamSynchronize StreamBeginCapture StreamEndCapture \
           GraphInstantiate GraphLaunch GraphDestroy GraphExecDestroy FuncSetAttribute LaunchKernelExC \
           GetDriverEntryPointByVersion GetLastError)
$(B)/tests/faults/test_cuda_faults: LDFLAGS += $(addprefix -Wl$(COMMA)--wrap=,$(WRAPPED))

# The program itself is run in a test, under another name than main.
$(OBJ)/tests/faults/vitrun_main.o: $(OBJ)/engine/cli/main.o
	@mkdir -p $(@D)
	$(call say,COPY,$@)objcopy --redefine-sym main=vitrun_main $< $@
$(B)/tests/faults/test_program: $(OBJ)/tests/faults/vitrun_main.o $(filter-out %/main.o,$(CLI_OBJ))

.PHONY: test-faults
# All calls, where the tests try a sample of them: some minutes.
test-faults: $(B)/tests/faults/test_library $(B)/tests/faults/test_program
	FAULT_STRIDE=1 $(B)/tests/faults/test_library
	FAULT_STRIDE=1 $(B)/tests/faults/test_program
