/* What the benchmarks of the GPU's attention share: random inputs on the device, and the time of a
 * call. Whatever fails ends the program with a line that says what. For one source file each. */
#ifndef TESTS_BENCH_CUDA_H
#define TESTS_BENCH_CUDA_H

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/tensor.h"

enum { REPLAYS = 15 };

static void check(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "%s: %s\n", what, cudaGetErrorString((cudaError_t)error));
        exit(1);
    }
}

/* n elements between -most and most, of fp32 or fp16. The caller frees. */
static void *random_elements(size_t n, vt_dtype type, float most)
{
    size_t bytes = n * vt_dtype_bytes(type);
    char *host = malloc(bytes);
    unsigned state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        float x = ((float)(state >> 8) / 8388608.0f - 1) * most;
        if (type == VT_F32) {
            ((float *)host)[i] = x;
            continue;
        }
        _Float16 half = (_Float16)x;
        memcpy(host + i * 2, &half, 2);
    }
    void *device = NULL;
    check(cudaMalloc(&device, bytes), "memory");
    check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copy");
    free(host);
    return device;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* A call of what is measured; 0, or CUDA's error. */
typedef int (*bench_call)(const void *user, cudaStream_t stream);

static cudaGraphExec_t record(const char *name, bench_call call, const void *user, int calls,
                              cudaStream_t stream)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
    for (int i = 0; i < calls; i++)
        check(call(user, stream), name);
    check(cudaStreamEndCapture(stream, &graph), "capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "graph");
    cudaGraphDestroy(graph);
    return exec;
}

/* Microseconds a call: the median over replays of a CUDA graph of `calls` of them. */
static double microseconds(const char *name, bench_call call, const void *user, int calls)
{
    cudaStream_t stream;
    cudaEvent_t begin, end;
    float ms[REPLAYS];
    check(cudaStreamCreate(&stream), "stream");
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    cudaGraphExec_t exec = record(name, call, user, calls, stream);
    for (int i = -2; i < REPLAYS; i++) {
        check(cudaEventRecord(begin, stream), "event");
        check(cudaGraphLaunch(exec, stream), "graph");
        check(cudaEventRecord(end, stream), "event");
        check(cudaStreamSynchronize(stream), name);
        check(cudaEventElapsedTime(&ms[i < 0 ? 0 : i], begin, end), "event");
    }
    qsort(ms, REPLAYS, sizeof *ms, by_value);
    cudaGraphExecDestroy(exec);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaStreamDestroy(stream);
    return (double)ms[REPLAYS / 2] * 1e3 / calls;
}

#endif
