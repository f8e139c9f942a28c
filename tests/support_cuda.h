/* What the tests of the GPU share: whether there is one. They are skipped, loudly, where there is
 * none, and fail instead where VITRUN_TEST_GPU=1 (make test-gpu) says that there must be. */
#ifndef TESTS_SUPPORT_CUDA_H
#define TESTS_SUPPORT_CUDA_H

/* Skips or fails the test in progress where there is no usable GPU. */
void need_gpu(void);

#endif
