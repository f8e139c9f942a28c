/* The kernel of attention_wgmma.cu: attention over all keys on Hopper, optionally under a bitmap.
 *
 * A work item is a tile of 3 * 64 queries of one head of one image; a block takes items one after
 * the other. Its last warpgroup copies (one thread of it does): each item's queries, then tiles of
 * 128 keys and values through rings of STAGES tiles each. The other three warpgroups have 64 query
 * rows each and compute
 *
 *   S = Q K^T    wgmma, both from shared memory, fp32 in registers
 *   P, m         attention_softmax.cuh
 *   O = O + P V  wgmma, P from registers, V's tile read along its other side
 *
 * At this head size the products and the powers take equally long, on different units: the
 * warpgroups issue products in turns, so that those of one run while the others weigh, and a tile's
 * O product runs while the next tile is weighed.
 *
 * The keys that do not fill a tile come first, in a tile of their own that is as narrow as they
 * allow. Columns at and beyond `tokens` are -inf before the maximum, as are pairs whose bit is off;
 * a row without any allowed key has m = -inf, and gives zeros.
 *
 * After any change here, or of the compiler, see whether ptxas says that "wgmma.mma_async
 * instructions are serialized" (C7511, C7512): a consumer's registers are nearly all in use, small
 * things tip it, and products that are serialised overlap with nothing.
 */
#ifndef VT_CUDA_ATTENTION_WGMMA_CUH
#define VT_CUDA_ATTENTION_WGMMA_CUH

#include "kernels/cuda/attention_softmax.cuh"

typedef struct {
    void *out;
    const uint16_t *head;
    const uint32_t *bits;
    int words;
    int tokens, heads, group_heads;
    int tiles, items; /* query tiles of a head; of all heads and images */
    float to_log2;    /* scale * log2(e) */
} wgmma_work;

template <typename Type, bool MASKED_> struct wgmma_config {
    typedef Type T;
    static constexpr bool MASKED = MASKED_;
    static constexpr int D = 64; /* head_dim: a row is 128 bytes, as the swizzle has them */
    static constexpr int GROUPS = 3, KEYS = 128, STAGES = 3;
    static constexpr int THREADS = 128 * (GROUPS + 1);
    static constexpr int COPY_REGS = 24, REGS = 160; /* 65536 / THREADS at launch */
    static constexpr int Q_BYTES = 64 * D * 2, KV_BYTES = KEYS * D * 2;
    static constexpr int PITCH = D + 8; /* of output rows in shared memory */
    static constexpr int OUT_BYTES = 64 * PITCH * 2;
    static constexpr int Q_AT = 0, K_AT = Q_AT + GROUPS * Q_BYTES;
    static constexpr int V_AT = K_AT + STAGES * KV_BYTES;
    static constexpr int OUT_AT = V_AT + STAGES * KV_BYTES;
    static constexpr int BARRIERS_AT = OUT_AT + GROUPS * OUT_BYTES;
    static constexpr int BARRIERS = 4 * STAGES + 2 * GROUPS;
    static constexpr int SHARED = BARRIERS_AT + 8 * BARRIERS + 1024; /* and to align */
};

#if VT_SM90A

/* Where the tiles and barriers of a block are. */
template <typename C> struct wgmma_shared {
    uint32_t base;

    __device__ uint32_t barrier(int i) const
    {
        return base + C::BARRIERS_AT + 8 * i;
    }
    __device__ uint32_t q(int group) const
    {
        return base + C::Q_AT + group * C::Q_BYTES;
    }
    __device__ uint32_t k(int stage) const
    {
        return base + C::K_AT + stage * C::KV_BYTES;
    }
    __device__ uint32_t v(int stage) const
    {
        return base + C::V_AT + stage * C::KV_BYTES;
    }
    __device__ uint32_t q_full(int group) const
    {
        return barrier(group);
    }
    __device__ uint32_t q_free(int group) const
    {
        return barrier(C::GROUPS + group);
    }
    __device__ uint32_t k_full(int stage) const
    {
        return barrier(2 * C::GROUPS + stage);
    }
    __device__ uint32_t k_free(int stage) const
    {
        return barrier(2 * C::GROUPS + C::STAGES + stage);
    }
    __device__ uint32_t v_full(int stage) const
    {
        return barrier(2 * C::GROUPS + 2 * C::STAGES + stage);
    }
    __device__ uint32_t v_free(int stage) const
    {
        return barrier(2 * C::GROUPS + 3 * C::STAGES + stage);
    }

    __device__ void init() const
    {
        for (int g = 0; g < C::GROUPS; g++) {
            barrier_init(q_full(g), 1);
            barrier_init(q_free(g), 4);
        }
        for (int s = 0; s < C::STAGES; s++) {
            barrier_init(k_full(s), 1);
            barrier_init(k_free(s), 4 * C::GROUPS);
            barrier_init(v_full(s), 1);
            barrier_init(v_free(s), 4 * C::GROUPS);
        }
        barrier_init_done();
    }
};

/* Tile n of all that a block copies: its stage in the ring, and the parity of the stage's turn. */
template <int STAGES> __device__ __forceinline__ int stage_of(uint32_t n)
{
    return n % STAGES;
}
template <int STAGES> __device__ __forceinline__ uint32_t turn_of(uint32_t n)
{
    return n / STAGES % 2;
}

struct wgmma_item {
    int image, head, row;
};

template <typename C> __device__ __forceinline__ wgmma_item item_at(const wgmma_work &w, int index)
{
    int pair = index / w.tiles, tile = index - pair * w.tiles;
    int image = pair / w.group_heads, head = pair - image * w.group_heads;
    return {image, w.head ? w.head[head] : head, tile * C::GROUPS * 64};
}

/* ---- copying ---- */

__device__ __forceinline__ void copy_tile(const CUtensorMap *map, uint32_t to, uint32_t barrier,
                                          int bytes, int column, int row, int image)
{
    barrier_expect(barrier, bytes);
    copy_box(to, map, column, row, image, barrier);
}

/* The block's one copying thread: keys lead values by a tile, as they are needed. */
template <typename C>
__device__ void wgmma_copies(const CUtensorMap *map_q, const CUtensorMap *map_kv,
                             const wgmma_work &w, wgmma_shared<C> sh)
{
    uint32_t n = 0;         /* tiles of keys copied so far */
    uint32_t q_turns = ~0u; /* a bit for each warpgroup */
    int width = w.heads * C::D;
    int full = w.tokens / C::KEYS, ragged = w.tokens % C::KEYS > 0, tiles = full + ragged;
    after_previous();
    for (int index = blockIdx.x; index < w.items; index += gridDim.x) {
        wgmma_item item = item_at<C>(w, index);
        int column = item.head * C::D;
        for (int g = 0; g < C::GROUPS && item.row + 64 * g < w.tokens; g++) {
            barrier_wait(sh.q_free(g), q_turns >> g & 1);
            q_turns ^= 1u << g;
            copy_tile(map_q, sh.q(g), sh.q_full(g), C::Q_BYTES, column, item.row + 64 * g,
                      item.image);
        }
        int row = ragged ? full * C::KEYS : 0, row_before = 0;
        for (int j = 0; j <= tiles; j++, n++) {
            int stage = stage_of<C::STAGES>(n);
            if (j < tiles) {
                barrier_wait(sh.k_free(stage), turn_of<C::STAGES>(n) ^ 1);
                copy_tile(map_kv, sh.k(stage), sh.k_full(stage), C::KV_BYTES, width + column, row,
                          item.image);
            }
            if (j > 0) {
                stage = stage_of<C::STAGES>(n - 1);
                barrier_wait(sh.v_free(stage), turn_of<C::STAGES>(n - 1) ^ 1);
                copy_tile(map_kv, sh.v(stage), sh.v_full(stage), C::KV_BYTES, 2 * width + column,
                          row_before, item.image);
            }
            row_before = row;
            row = j == 0 && ragged ? 0 : row + C::KEYS;
        }
        n--;
    }
    let_next_start();
}

/* ---- arithmetic ---- */

/* A consumer thread: rows lane / 4 and 8 further of its warp's 16. */
template <typename C> struct wgmma_rows : softmax_rows<typename C::T, C::KEYS, C::D, C::MASKED> {
    typedef typename C::T T;
    typedef softmax_rows<T, C::KEYS, C::D, C::MASKED> softmax;
    using softmax::max;
    using softmax::out;
    using softmax::p;
    using softmax::S;
    using softmax::sum;
    static constexpr int WORDS = C::KEYS / 32;

    const wgmma_work &w;
    wgmma_shared<C> sh;
    int group, lane;
    uint32_t n; /* the tile whose values are due; its scores are weighed before that */
    uint32_t bits[C::MASKED ? 2 * WORDS : 1]; /* of the rows, for a tile */
    uint32_t bits_at[C::MASKED ? 2 : 1];      /* where the rows' begin, in words */

    __device__ __forceinline__ wgmma_rows(const wgmma_work &work, wgmma_shared<C> shared, int which)
        : w(work), sh(shared), group(which), lane(threadIdx.x % 32), n(0), bits{}, bits_at{}
    {
    }

    /* -- products -- */

    /* Scores of tile n + LEAD. */
    template <int WIDTH, int LEAD> __device__ __forceinline__ void issue_scores(float *s)
    {
        int stage = stage_of<C::STAGES>(n + LEAD);
        barrier_wait(sh.k_full(stage), turn_of<C::STAGES>(n + LEAD));
        products_begin();
#pragma unroll
        for (int i = 0; i < C::D / 16; i++)
            product<WIDTH, T>::both(s, operand(sh.q(group) + i * 32), operand(sh.k(stage) + i * 32),
                                    i > 0);
        products_commit();
    }

    template <int WIDTH> __device__ __forceinline__ void issue_values()
    {
        int stage = stage_of<C::STAGES>(n);
        barrier_wait(sh.v_full(stage), turn_of<C::STAGES>(n));
        products_begin();
#pragma unroll
        for (int i = 0; i < WIDTH / 16; i++)
            product<C::D, T>::template left<1>(out, p + 4 * i, operand(sh.v(stage) + i * 2048), 1);
        products_commit();
    }

    /* The warpgroups issue their products in turns: then one's run while others weigh. */
    __device__ __forceinline__ void take_turn()
    {
        named_wait(1 + group, 256);
    }
    __device__ __forceinline__ void give_turn()
    {
        named_arrive((group + 1) % C::GROUPS + 1, 256);
    }

    __device__ __forceinline__ void release_scores(int lead)
    {
        if (lane == 0)
            barrier_arrive(sh.k_free(stage_of<C::STAGES>(n + lead)));
    }

    /* And on to the next tile. */
    __device__ __forceinline__ void release_values()
    {
        if (lane == 0)
            barrier_arrive(sh.v_free(stage_of<C::STAGES>(n)));
        n++;
    }

    /* -- masks -- */

    __device__ __forceinline__ void load_bits(int key)
    {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            uint4 x = *reinterpret_cast<const uint4 *>(w.bits + bits_at[r] + key / 32);
            bits[4 * r] = x.x, bits[4 * r + 1] = x.y, bits[4 * r + 2] = x.z, bits[4 * r + 3] = x.w;
        }
    }

    template <int WIDTH> __device__ __forceinline__ void apply_bits(float *s)
    {
        bool all = true;
#pragma unroll
        for (int i = 0; i < 2 * WORDS; i++)
            all = all && bits[i] == 0xffffffffu;
        if (__all_sync(0xffffffffu, all))
            return;
#pragma unroll
        for (int i = 0; i < 2 * WORDS; i++)
            bits[i] >>= 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i++) { /* column 8 (i / 4) + i % 2, row i / 2 % 2 */
            uint32_t bit = 1u << (i / 4 % 4 * 8 + i % 2);
            s[i] = bits[i / 2 % 2 * WORDS + i / 16] & bit ? s[i] : -INFINITY;
        }
    }

    template <int WIDTH> __device__ __forceinline__ void apply_bound(float *s, int keys)
    {
        int left = keys - 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i++)
            s[i] = i / 4 * 8 + i % 2 < left ? s[i] : -INFINITY;
    }

    /* -- tiles -- */

    /* The first tile, of the keys that do not fill one: `keys` of them, at most WIDTH. */
    template <int WIDTH> __device__ __forceinline__ void ragged(int keys)
    {
        float s[S];
        float shrink[2];
        issue_scores<WIDTH, 0>(s);
        products_wait<0>();
        products_touch(s);
        release_scores(0);
        if constexpr (C::MASKED)
            apply_bits<WIDTH>(s);
        else
            apply_bound<WIDTH>(s, keys);
        softmax::template grow<WIDTH>(s, w.to_log2, shrink); /* there is nothing to shrink */
        softmax::template weigh<WIDTH>(s, w.to_log2);
        softmax::template pack<WIDTH>(s);
        issue_values<WIDTH>();
        products_wait<0>();
        products_touch(out);
        release_values();
    }

    __device__ __forceinline__ void any_ragged(int keys)
    {
        if (keys <= 16)
            ragged<16>(keys);
        else if (keys <= 64)
            ragged<64>(keys);
        else
            ragged<C::KEYS>(keys);
    }

    /* The first full tile: its weights. */
    __device__ __forceinline__ void first(float (&s)[S])
    {
        float shrink[2];
        take_turn();
        issue_scores<C::KEYS, 0>(s);
        give_turn();
        if constexpr (C::MASKED)
            load_bits(0);
        products_wait<0>();
        products_touch(s);
        release_scores(0);
        if constexpr (C::MASKED)
            apply_bits<C::KEYS>(s);
        if (softmax::template grow<C::KEYS>(s, w.to_log2, shrink))
            softmax::shrink_out(shrink);
        softmax::template weigh<C::KEYS>(s, w.to_log2);
        softmax::template pack<C::KEYS>(s);
    }

    /* The values of a tile, and the weights of the next, which begins at `key`. */
    __device__ __forceinline__ void step(float (&s)[S], int key)
    {
        float shrink[2];
        take_turn();
        issue_scores<C::KEYS, 1>(s);
        issue_values<C::KEYS>();
        give_turn();
        if constexpr (C::MASKED)
            load_bits(key);
        products_wait<1>();
        products_touch(s);
        release_scores(1);
        if constexpr (C::MASKED)
            apply_bits<C::KEYS>(s);
        bool grew = softmax::template grow<C::KEYS>(s, w.to_log2, shrink);
        softmax::template weigh<C::KEYS>(s, w.to_log2);
        products_wait<0>();
        products_touch(p);
        products_touch(out);
        release_values();
        if (grew)
            softmax::shrink_out(shrink);
        softmax::template pack<C::KEYS>(s);
    }

    /* The full tiles. The last product is under way on return. */
    __device__ __forceinline__ void sweep(int tiles)
    {
        float s[S];
        first(s);
        for (int j = 1; j < tiles; j++)
            step(s, j * C::KEYS);
        issue_values<C::KEYS>();
    }

    __device__ __forceinline__ void start(int row)
    {
        softmax::start_rows();
        if constexpr (C::MASKED)
            for (int r = 0; r < 2; r++) {
                int at = min(row + threadIdx.x / 32 % 4 * 16 + lane / 4 + 8 * r, w.tokens - 1);
                bits_at[r] = (uint32_t)at * w.words;
            }
    }

    __device__ __forceinline__ void release_q()
    {
        __syncwarp();
        if (lane == 0)
            barrier_arrive(sh.q_free(group));
    }

    /* O / sum in the output's type, into the warp's own 16 rows of shared memory. */
    __device__ __forceinline__ void stage_out(uint32_t at)
    {
        float part[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] = quad_sum(sum[r]);
            part[r] = max[r] == -INFINITY ? 0.0f : 1 / sum[r];
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < C::D / 2; i += 2) {
            int r = i / 2 % 2, column = i / 4 * 8 + lane % 4 * 2;
            asm volatile(
                "st.shared.b32 [%0], %1;" ::"r"(at + ((lane / 4 + 8 * r) * C::PITCH + column) * 2),
                "r"(pack2<T>(out[i] * part[r], out[i + 1] * part[r]))
                : "memory");
        }
        __syncwarp();
    }

    /* By way of shared memory, to store 16 bytes at a time. */
    __device__ __forceinline__ void store(const wgmma_item &item, int row)
    {
        constexpr int CHUNKS = C::D / 8;
        int warp = threadIdx.x / 32 % 4;
        uint32_t at = sh.base + C::OUT_AT + group * C::OUT_BYTES + warp * 16 * C::PITCH * 2;
        stage_out(at);
        size_t pitch = (size_t)w.heads * C::D;
        T *to = (T *)w.out + ((size_t)item.image * w.tokens) * pitch + item.head * C::D;
        row += warp * 16;
#pragma unroll
        for (int i = lane; i < 16 * CHUNKS; i += 32) {
            int r = i / CHUNKS, c = i % CHUNKS;
            uint4 x;
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                         : "r"(at + (r * C::PITCH + c * 8) * 2)
                         : "memory");
            if (row + r < w.tokens)
                *reinterpret_cast<uint4 *>(to + (row + r) * pitch + c * 8) = x;
        }
    }

    /* Lets the copies pass where this warpgroup has no rows. */
    __device__ __forceinline__ void pass(int full, int tiles)
    {
        for (int j = 0; j < tiles; j++) {
            if (j < full) {
                take_turn();
                give_turn();
            }
            barrier_wait(sh.k_full(stage_of<C::STAGES>(n)), turn_of<C::STAGES>(n));
            release_scores(0);
            barrier_wait(sh.v_full(stage_of<C::STAGES>(n)), turn_of<C::STAGES>(n));
            release_values();
        }
    }

    __device__ __forceinline__ void run()
    {
        int full = w.tokens / C::KEYS, left = w.tokens % C::KEYS;
        uint32_t q_turn = 0;
        if (group == C::GROUPS - 1)
            give_turn();
        for (int index = blockIdx.x; index < w.items; index += gridDim.x) {
            wgmma_item item = item_at<C>(w, index);
            int row = item.row + 64 * group;
            if (row >= w.tokens) {
                pass(full, full + (left > 0));
                continue;
            }
            start(row);
            barrier_wait(sh.q_full(group), q_turn);
            q_turn ^= 1;
            if (left) {
                if constexpr (C::MASKED)
                    load_bits(full * C::KEYS);
                any_ragged(left);
            }
            if (full)
                sweep(full);
            release_q();
            products_wait<0>();
            products_touch(out);
            if (full)
                release_values();
            store(item, row);
        }
    }
};

#endif

template <typename C>
__global__ void __launch_bounds__(C::THREADS, 1)
    wgmma_attend(const __grid_constant__ CUtensorMap map_q,
                 const __grid_constant__ CUtensorMap map_kv, const wgmma_work w)
{
#if VT_SM90A
    extern __shared__ char raw[];
    wgmma_shared<C> sh = {(shared_offset(raw) + 1023) & ~1023u};
    if (threadIdx.x == 0)
        sh.init();
    __syncthreads();
    if (threadIdx.x / 128 == C::GROUPS) {
        fewer_registers<C::COPY_REGS>();
        if (threadIdx.x % 128 == 0) {
            prefetch_map(&map_q);
            prefetch_map(&map_kv);
            wgmma_copies<C>(&map_q, &map_kv, w, sh);
        }
    } else {
        more_registers<C::REGS>();
        /* the same in all lanes, and known to be */
        int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
        wgmma_rows<C> rows(w, sh, group);
        rows.run();
    }
#endif
}

#endif
