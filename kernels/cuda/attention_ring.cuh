/* Tiles of keys and their values on their way to the warps of attention_mma.cuh: a ring of stages
 * in shared memory, which a block fills with asynchronous copies a few tiles ahead. A stage has the
 * rows of KEYS keys and then those of as many values; which tokens these are is the kernels'
 * matter.
 */
#ifndef VT_CUDA_ATTENTION_RING_CUH
#define VT_CUDA_ATTENTION_RING_CUH

#include "kernels/cuda/attention_mma.cuh"

static const float LOG2_E = 1.44269504f;

/* WARPS of M groups of 16 rows. */
template <typename T, int D, int M, int WARPS_ = 4> struct ring {
    static const int WARPS = WARPS_, THREADS = 32 * WARPS, ROWS = 16 * M * WARPS;
    static const int KEYS = D * sizeof(T) > 256 ? 32 : 64, STAGES = D * sizeof(T) > 256 ? 2 : 3;
    static const int HALF = KEYS * rows_of<T, D>::BYTES, STAGE = 2 * HALF, BYTES = STAGES * STAGE;

    /* The keys and values of a tile, as one group of copies. */
    template <typename Tokens>
    __device__ static __forceinline__ void copy(char *to, const head_view<T> &h, Tokens tokens)
    {
        if (!h.whole()) {
            copy_rows_slowly<D, THREADS>(to, h.k(), h, tokens, KEYS, threadIdx.x);
            copy_rows_slowly<D, THREADS>(to + HALF, h.v(), h, tokens, KEYS, threadIdx.x);
        } else {
            uint32_t at = shared_address(to);
            copy_rows<D, THREADS>(at, h.k(), h, tokens, KEYS, threadIdx.x);
            copy_rows<D, THREADS>(at + HALF, h.v(), h, tokens, KEYS, threadIdx.x);
        }
    }

    /* Of a tile that has arrived, this thread's part. */
    __device__ static __forceinline__ void round(char *tile, const head_view<T> &h)
    {
        if constexpr (sizeof(T) == 4)
            if (h.whole()) {
                round_rows<D, THREADS>(tile, KEYS, threadIdx.x);
                round_rows<D, THREADS>(tile + HALF, KEYS, threadIdx.x);
            }
    }
};

#endif
