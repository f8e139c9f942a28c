/* Attention over exactly the allowed pairs, row by row, for masks without structure, odd head sizes
 * and fp32:
 *
 *   out[q] = sum over keys k of row q: softmax(scale * (q . k + bias)) v[k]
 *
 * A warp has a query of a head. It is divided into groups of GROUP lanes; a group takes every
 * (32 / GROUP)th key of the row, AT_ONCE of them together, its lanes sharing the key's head_dim in
 * chunks of 16 bytes, and keeps an online softmax of its own; at the end the groups' results are
 * merged by their maxima. Keys and values are gathered straight from global memory: 2 * head_dim
 * elements a pair, which is the kernel's cost. Rows without keys give zeros.
 *
 * A row that is much longer than others (a prefix token's) has a block to itself, whose warps share
 * its keys likewise; these blocks come first, so that nothing waits for them at the end.
 *
 * Where masks and shapes are such that attention_panels.cu is faster, that runs instead.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/kernels.h"

template <typename T, int V> struct alignas(sizeof(T) * V) chunk {
    T v[V];
};

/* An instance: chunks of V elements; lane i of a group has the chunks i, i + GROUP, ... of a head.
 * */
template <typename T_, int V_, int GROUP_, int CHUNKS_> struct rows_config {
    typedef T_ T;
    static constexpr int V = V_, GROUP = GROUP_, CHUNKS = CHUNKS_, GROUPS = 32 / GROUP;
    static constexpr int WIDTH = V * CHUNKS; /* elements of a lane */
    static constexpr int AT_ONCE = WIDTH <= 8 ? 4 : WIDTH <= 16 ? 2 : 1;
    static constexpr int WARPS = WIDTH <= 16 ? 8 : 4;
};

template <typename C> struct lane_chunks {
    chunk<typename C::T, C::V> c[C::CHUNKS];

    /* Zeros beyond the head's chunks. */
    __device__ __forceinline__ void load(const typename C::T *head, int lane, int chunks)
    {
#pragma unroll
        for (int i = 0; i < C::CHUNKS; i++) {
            int at = lane + C::GROUP * i;
            c[i] = {};
            if (at < chunks)
                c[i] = reinterpret_cast<const chunk<typename C::T, C::V> *>(head)[at];
        }
    }

    __device__ __forceinline__ float element(int i) const
    {
        return to_f32(c[i / C::V].v[i % C::V]);
    }
};

template <int GROUP> __device__ __forceinline__ float group_sum(float v)
{
#pragma unroll
    for (int i = GROUP / 2; i; i /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

/* The running state of a softmax: maximum, sum of weights, weighted sum of values. */
template <typename C> struct softmax {
    float max, sum, value[C::WIDTH];

    __device__ __forceinline__ void scale_by(float f)
    {
        sum *= f;
#pragma unroll
        for (int i = 0; i < C::WIDTH; i++)
            value[i] *= f;
    }

    __device__ __forceinline__ void raise(float top)
    {
        if (top > max) {
            scale_by(exp2f(max - top)); /* of -inf: 0 */
            max = top;
        }
    }

    /* A score of -inf adds nothing; max is raised already. */
    __device__ __forceinline__ void add(float score, const lane_chunks<C> &v)
    {
        if (score == -INFINITY)
            return;
        float weight = exp2f(score - max);
        sum += weight;
#pragma unroll
        for (int i = 0; i < C::WIDTH; i++)
            value[i] = fmaf(weight, v.element(i), value[i]);
    }

    /* Together with the state of the lane `distance` away, which does the same. */
    __device__ __forceinline__ void merge(int distance)
    {
        raise(__shfl_xor_sync(0xffffffffu, max, distance));
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
#pragma unroll
        for (int i = 0; i < C::WIDTH; i++)
            value[i] += __shfl_xor_sync(0xffffffffu, value[i], distance);
    }
};

/* A query of a head of an image, and its keys pair[first .. last). */
template <typename C> struct rows_work {
    typedef typename C::T T;
    const T *image; /* the head's query of the image's first token */
    T *out;         /* where this query's goes */
    size_t width;   /* of a layer: q, k and v are so far apart */
    int query, chunks;
    uint32_t first, last;
    const float *bias; /* of the query, by bias_col[key]; NULL: none */
    const int32_t *bias_col;

    __device__ __forceinline__ rows_work(const vt_cuda_attention &a, const vt_cuda_rows &r,
                                         size_t pair, int of)
        : query(of)
    {
        size_t head = pair % a.group_heads, at = pair / a.group_heads * a.tokens;
        head = a.head ? a.head[head] : head;
        width = (size_t)a.heads * a.head_dim;
        image = (const T *)a.qkv + at * 3 * width + head * a.head_dim;
        out = (T *)a.out + (at + query) * width + head * a.head_dim;
        chunks = a.head_dim / C::V;
        first = r.start[query];
        last = r.start[query + 1];
        bias_col = a.bias.col;
        bias = a.bias.table ? a.bias.table + head * a.bias.stride + a.bias.row[query] : NULL;
    }

    /* Warp `part` of `parts` takes its share of the keys. */
    __device__ __forceinline__ void visit(softmax<C> &state, const vt_cuda_rows &r, float to_log2,
                                          int part, int parts) const
    {
        const int STEP = C::GROUPS * C::AT_ONCE;
        int lane = threadIdx.x % C::GROUP, group = threadIdx.x % 32 / C::GROUP;
        lane_chunks<C> q, k[C::AT_ONCE], v[C::AT_ONCE];
        q.load(image + query * 3 * width, lane, chunks);
        for (uint32_t i = first + part * STEP; i < last; i += parts * STEP) {
            float score[C::AT_ONCE], top = -INFINITY;
#pragma unroll
            for (int u = 0; u < C::AT_ONCE; u++) {
                uint32_t at = min(i + u * C::GROUPS + group, last - 1);
                size_t key = r.key16 ? r.key16[at] : r.key32[at];
                score[u] = bias ? bias[bias_col[key]] : 0;
                k[u].load(image + key * 3 * width + width, lane, chunks);
                v[u].load(image + key * 3 * width + 2 * width, lane, chunks);
            }
#pragma unroll
            for (int u = 0; u < C::AT_ONCE; u++) {
                float dot = 0;
#pragma unroll
                for (int j = 0; j < C::WIDTH; j++)
                    dot = fmaf(q.element(j), k[u].element(j), dot);
                dot = group_sum<C::GROUP>(dot) + score[u];
                score[u] = i + u * C::GROUPS + group < last ? dot * to_log2 : -INFINITY;
                top = fmaxf(top, score[u]);
            }
            state.raise(top);
#pragma unroll
            for (int u = 0; u < C::AT_ONCE; u++)
                state.add(score[u], v[u]);
        }
#pragma unroll
        for (int distance = C::GROUP; distance < 32; distance *= 2)
            state.merge(distance);
    }

    __device__ __forceinline__ void store(const softmax<C> &state) const
    {
        int lane = threadIdx.x % C::GROUP;
        float weight = state.sum > 0 ? 1.0f / state.sum : 0.0f;
        if (threadIdx.x % 32 / C::GROUP)
            return;
#pragma unroll
        for (int i = 0; i < C::CHUNKS; i++) {
            chunk<T, C::V> to;
#pragma unroll
            for (int j = 0; j < C::V; j++)
                to.v[j] = from_f32<T>(first < last ? state.value[i * C::V + j] * weight : 0.0f);
            if (lane + C::GROUP * i < chunks)
                reinterpret_cast<chunk<T, C::V> *>(out)[lane + C::GROUP * i] = to;
        }
    }
};

/* The states of a block's warps become the first warp's, by way of shared memory. */
template <typename C> __device__ __forceinline__ void gather_states(softmax<C> &state)
{
    __shared__ float max[C::WARPS], sum[C::WARPS], value[C::WARPS][C::WIDTH][C::GROUP];
    int warp = threadIdx.x / 32, lane = threadIdx.x % C::GROUP;
    max[warp] = state.max; /* all lanes of a warp have the same */
    sum[warp] = state.sum;
#pragma unroll
    for (int i = 0; i < C::WIDTH; i++)
        value[warp][i][lane] = state.value[i];
    __syncthreads();
    for (int w = 1; w < C::WARPS && warp == 0; w++) {
        if (max[w] == -INFINITY)
            continue;
        state.raise(max[w]);
        float weight = exp2f(max[w] - state.max);
        state.sum = fmaf(weight, sum[w], state.sum);
#pragma unroll
        for (int i = 0; i < C::WIDTH; i++)
            state.value[i] = fmaf(weight, value[w][i][lane], state.value[i]);
    }
}

/* The first `longs` blocks have a long row each, the others WARPS rows. */
template <typename C>
__global__ void __launch_bounds__(32 * C::WARPS)
    rows_kernel(vt_cuda_attention a, vt_cuda_rows r, unsigned longs)
{
    float to_log2 = a.scale * 1.44269504f;
    softmax<C> state = {-INFINITY, 0, {}};
    if (blockIdx.x < longs) {
        rows_work<C> w(a, r, blockIdx.x / r.long_rows, r.long_row[blockIdx.x % r.long_rows]);
        after_previous();
        w.visit(state, r, to_log2, threadIdx.x / 32, C::WARPS);
        gather_states<C>(state);
        if (threadIdx.x < 32)
            w.store(state);
        return;
    }
    size_t item = (size_t)(blockIdx.x - longs) * C::WARPS + threadIdx.x / 32;
    size_t pair = item / a.tokens;
    if (pair >= (size_t)a.images * a.group_heads)
        return;
    rows_work<C> w(a, r, pair, (int)(item % a.tokens));
    if (w.last - w.first > r.long_keys)
        return;
    after_previous();
    w.visit(state, r, to_log2, 0, 1);
    w.store(state);
}

template <typename T, int V, int GROUP, int CHUNKS>
static int run(const vt_cuda_attention *a, const vt_cuda_rows *r, bool all, cudaStream_t stream)
{
    typedef rows_config<T, V, GROUP, CHUNKS> C;
    size_t pairs = (size_t)a->images * a->group_heads, items = all ? pairs * a->tokens : 0;
    size_t longs = pairs * r->long_rows;
    return launch(rows_kernel<C>, (unsigned)(longs + (items + C::WARPS - 1) / C::WARPS),
                  32 * C::WARPS, 0, stream, *a, *r, (unsigned)longs);
}

/* The narrowest instance that holds a head. */
template <typename T>
static int choose(const vt_cuda_attention *a, const vt_cuda_rows *r, bool all, cudaStream_t stream)
{
    const int V = 16 / sizeof(T);
    if (a->head_dim % V)
        return a->head_dim <= 128 ? run<T, 1, 32, 4>(a, r, all, stream)
                                  : run<T, 1, 32, 32>(a, r, all, stream);
    int chunks = a->head_dim / V;
    return chunks <= 8    ? run<T, V, 8, 1>(a, r, all, stream)
           : chunks <= 16 ? run<T, V, 8, 2>(a, r, all, stream)
           : chunks <= 32 ? run<T, V, 32, 1>(a, r, all, stream)
           : chunks <= 64 ? run<T, V, 32, 2>(a, r, all, stream)
                          : run<T, V, 32, 32 / V>(a, r, all, stream);
}

static int run_type(const vt_cuda_attention *a, const vt_cuda_rows *r, bool all,
                    cudaStream_t stream)
{
    return a->type == VT_F32   ? choose<float>(a, r, all, stream)
           : a->type == VT_F16 ? choose<__half>(a, r, all, stream)
                               : choose<__nv_bfloat16>(a, r, all, stream);
}

extern "C" int vt_cuda_attend_gathered(const vt_cuda_attention *a, const vt_cuda_rows *r,
                                       cudaStream_t stream)
{
    return run_type(a, r, true, stream);
}

extern "C" int vt_cuda_attend_long_rows(const vt_cuda_attention *a, const vt_cuda_rows *r,
                                        cudaStream_t stream)
{
    return run_type(a, r, false, stream);
}

extern "C" int vt_cuda_attend_rows(const vt_cuda_attention *a, const vt_cuda_rows *r,
                                   cudaStream_t stream)
{
    return vt_cuda_attend_panels_better(a, r) ? vt_cuda_attend_panels(a, r, stream)
                                              : vt_cuda_attend_gathered(a, r, stream);
}
