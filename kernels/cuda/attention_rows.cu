/* Attention over exactly the allowed pairs, row by row, for masks without structure, odd head sizes
 * and fp32:
 *
 *   out[q] = sum over keys k of row q: softmax(scale * (q . k + bias)) v[k]
 *
 * A warp has a query of a head. It is divided into groups of GROUP lanes; a group takes every
 * (32 / GROUP)th key of the row, its lanes sharing the key's head_dim in chunks of 16 bytes, and
 * keeps an online softmax of its own; at the end the groups' results are merged by their maxima.
 * Keys and values are gathered straight from global memory: 2 * head_dim elements a pair, which is
 * the kernel's cost. Rows without keys give zeros.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

static const int WARPS = 4;

typedef struct {
    const uint32_t *start;
    const uint16_t *key16;
    const uint32_t *key32;
} rows_of_keys;

template <typename T, int V> struct alignas(sizeof(T) * V) chunk {
    T v[V];
};

/* Lane `lane` of a group has the chunks lane, lane + GROUP, ... of a head. */
template <typename T, int V, int GROUP, int CHUNKS>
__device__ __forceinline__ void load_chunks(float (&to)[CHUNKS][V], const T *from, int lane,
                                            int chunks)
{
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        int at = lane + GROUP * c;
        chunk<T, V> in = {};
        if (at < chunks)
            in = reinterpret_cast<const chunk<T, V> *>(from)[at];
#pragma unroll
        for (int j = 0; j < V; j++)
            to[c][j] = at < chunks ? to_f32(in.v[j]) : 0.0f;
    }
}

template <int GROUP> __device__ __forceinline__ float group_sum(float v)
{
#pragma unroll
    for (int i = GROUP / 2; i; i /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

/* The running state of a softmax: maximum, sum of weights, weighted sum of values. */
template <int V, int CHUNKS> struct softmax {
    float max, sum, value[CHUNKS][V];

    __device__ void scale_by(float f)
    {
        sum *= f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int j = 0; j < V; j++)
                value[c][j] *= f;
    }

    __device__ void add(float score, const float (&v)[CHUNKS][V])
    {
        if (score > max) {
            scale_by(exp2f(max - score)); /* of -inf: 0 */
            max = score;
        }
        float weight = exp2f(score - max);
        sum += weight;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int j = 0; j < V; j++)
                value[c][j] += weight * v[c][j];
    }

    /* Together with the state of the lane `distance` away, which does the same. */
    __device__ void merge(int distance)
    {
        float other = __shfl_xor_sync(0xffffffffu, max, distance), top = fmaxf(max, other);
        scale_by(max == -INFINITY ? 0.0f : exp2f(max - top));
        max = top;
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int j = 0; j < V; j++)
                value[c][j] += __shfl_xor_sync(0xffffffffu, value[c][j], distance);
    }
};

template <typename T, int V, int GROUP, int CHUNKS>
__global__ void __launch_bounds__(32 * WARPS) rows_kernel(vt_cuda_attention a, rows_of_keys r)
{
    const int groups = 32 / GROUP;
    int lane = threadIdx.x % GROUP, group = threadIdx.x % 32 / GROUP, chunks = a.head_dim / V;
    size_t item = (size_t)blockIdx.x * WARPS + threadIdx.x / 32;
    int query = (int)(item % a.tokens);
    size_t head = item / a.tokens % a.group_heads, image = item / a.tokens / a.group_heads;
    size_t width = (size_t)a.heads * a.head_dim;
    if (image >= (size_t)a.images)
        return;
    uint32_t first = r.start[query], last = r.start[query + 1];
    head = a.head ? a.head[head] : head;
    after_previous();
    const T *q = (const T *)a.qkv + image * a.tokens * 3 * width + head * a.head_dim;
    float query_v[CHUNKS][V], key_v[CHUNKS][V], value_v[CHUNKS][V];
    load_chunks<T, V, GROUP, CHUNKS>(query_v, q + query * 3 * width, lane, chunks);
    softmax<V, CHUNKS> state = {-INFINITY, 0, {}};
    for (uint32_t i = first; i < last; i += groups) {
        bool mine = i + group < last;
        uint32_t at = mine ? i + group : i, key = r.key16 ? r.key16[at] : r.key32[at];
        const T *k = q + key * 3 * width + width;
        load_chunks<T, V, GROUP, CHUNKS>(key_v, k, lane, chunks);
        load_chunks<T, V, GROUP, CHUNKS>(value_v, k + width, lane, chunks);
        float dot = 0;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int j = 0; j < V; j++)
                dot += query_v[c][j] * key_v[c][j];
        dot = group_sum<GROUP>(dot);
        if (a.bias.table)
            dot += a.bias.table[head * a.bias.stride + a.bias.row[query] + a.bias.col[key]];
        if (mine)
            state.add(dot * a.scale * 1.44269504f, value_v);
    }
    for (int distance = GROUP; distance < 32; distance *= 2)
        state.merge(distance);
    if (group)
        return;
    T *out = (T *)a.out + (image * a.tokens + query) * width + head * a.head_dim;
    float weight = state.sum > 0 ? 1.0f / state.sum : 0.0f;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        chunk<T, V> to;
#pragma unroll
        for (int j = 0; j < V; j++)
            to.v[j] = from_f32<T>(first < last ? state.value[c][j] * weight : 0.0f);
        if (lane + GROUP * c < chunks)
            reinterpret_cast<chunk<T, V> *>(out)[lane + GROUP * c] = to;
    }
}

template <typename T, int V, int GROUP, int CHUNKS>
static int run(const vt_cuda_attention *a, const rows_of_keys *r, cudaStream_t stream)
{
    size_t items = (size_t)a->images * a->group_heads * a->tokens;
    return launch(rows_kernel<T, V, GROUP, CHUNKS>, (unsigned)((items + WARPS - 1) / WARPS),
                  32 * WARPS, 0, stream, *a, *r);
}

/* The narrowest instance that holds a head. */
template <typename T>
static int choose(const vt_cuda_attention *a, const rows_of_keys *r, cudaStream_t stream)
{
    const int V = 16 / sizeof(T);
    if (a->head_dim % V)
        return a->head_dim <= 128 ? run<T, 1, 32, 4>(a, r, stream)
                                  : run<T, 1, 32, 32>(a, r, stream);
    int chunks = a->head_dim / V;
    return chunks <= 8    ? run<T, V, 8, 1>(a, r, stream)
           : chunks <= 16 ? run<T, V, 8, 2>(a, r, stream)
           : chunks <= 32 ? run<T, V, 32, 1>(a, r, stream)
           : chunks <= 64 ? run<T, V, 32, 2>(a, r, stream)
                          : run<T, V, 32, 8>(a, r, stream);
}

extern "C" int vt_cuda_attend_rows(const vt_cuda_attention *a, const uint32_t *start,
                                   const uint16_t *key16, const uint32_t *key32,
                                   cudaStream_t stream)
{
    rows_of_keys r = {start, key16, key32};
    return a->type == VT_F32   ? choose<float>(a, &r, stream)
           : a->type == VT_F16 ? choose<__half>(a, &r, stream)
                               : choose<__nv_bfloat16>(a, &r, stream);
}
