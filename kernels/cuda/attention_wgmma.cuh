/* The kernel of attention_wgmma.cu: dense attention of a Hopper block, optionally under a bitmap.
 *
 * A work item is a tile of GROUPS * 64 queries of one head of one image; a block takes items one after
 * the other. Its last warpgroup copies (one thread of it does): each item's queries, then tiles of
 * KEYS keys and values through rings of STAGES tiles each. The other GROUPS warpgroups have 64 query
 * rows each and compute
 *
 *   S = Q K^T        wgmma, both from shared memory, fp32 in registers
 *   P = 2^(c S - m)  c = scale * log2(e), m the row's maximum so far, times c
 *   O = O + P V      wgmma, P from registers, V's tile read along its other side
 *
 * with O rescaled when m grows. m may lag behind the true maximum by up to LAG: weights are then at
 * most 2^LAG, which fp16 holds, and O is hardly ever rescaled. The tensor cores and the units for 2^x
 * take equally long at head_dim 64, so products of one tile run while another's weights are computed.
 *
 * The keys that do not fill a tile come first, in a tile of their own that is as narrow as they allow.
 * Columns at and beyond `tokens` are -inf before the maximum, as are pairs whose bit is off; a row
 * without any allowed key has m = -inf, and gives zeros.
 */
#ifndef VT_CUDA_ATTENTION_WGMMA_CUH
#define VT_CUDA_ATTENTION_WGMMA_CUH

#include "kernels/cuda/hopper.cuh"

typedef struct {
    void *out;
    const uint16_t *head;
    const uint32_t *bits;
    int words;
    int tokens, heads, group_heads;
    int tiles, items; /* query tiles of a head; of all heads and images */
    float to_log2;    /* scale * log2(e) */
} wgmma_work;

template <typename Type, int HEAD_DIM, int GROUPS_, int KEYS_, int STAGES_, bool MASKED_,
          bool AHEAD_, int POLY_, bool Q_IN_REGS_ = false, bool TURNS_ = false>
struct wgmma_config {
    typedef Type T;
    static constexpr int D = HEAD_DIM, GROUPS = GROUPS_, KEYS = KEYS_, STAGES = STAGES_;
    static constexpr bool MASKED = MASKED_, AHEAD = AHEAD_;
    static constexpr bool Q_IN_REGS = Q_IN_REGS_, TURNS = TURNS_;
    static constexpr int POLY = POLY_; /* of 16 weights, so many by polynomial */
    static constexpr int THREADS = 128 * (GROUPS + 1);
    static constexpr int SLABS = (D + 63) / 64; /* of 64 columns, as the swizzle has them */
    static constexpr int Q_BYTES = 64 * 128 * SLABS, KV_BYTES = KEYS * 128 * SLABS;
    static constexpr int PITCH = D + 8; /* of output rows in shared memory */
    static constexpr int OUT_BYTES = 64 * PITCH * 2;
    static constexpr int Q_AT = 0, K_AT = Q_AT + GROUPS * Q_BYTES;
    static constexpr int V_AT = K_AT + STAGES * KV_BYTES;
    static constexpr int OUT_AT = V_AT + STAGES * KV_BYTES;
    static constexpr int BARRIERS_AT = OUT_AT + GROUPS * OUT_BYTES;
    static constexpr int BARRIERS = 4 * STAGES + 2 * GROUPS;
    static constexpr int SHARED = BARRIERS_AT + 8 * BARRIERS + 1024; /* and to align */
    static constexpr int COPY_REGS = 24;
    static constexpr int REGS = GROUPS == 3 ? 160 : GROUPS == 2 ? 240 : 128;
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

template <typename C>
__device__ __forceinline__ void copy_tile(const CUtensorMap *map, uint32_t to, uint32_t barrier,
                                          int bytes, int column, int row, int image)
{
    barrier_expect(barrier, bytes);
#pragma unroll
    for (int slab = 0; slab < C::SLABS; slab++)
        copy_box(to + slab * (bytes / C::SLABS), map, column + 64 * slab, row, image, barrier);
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
            copy_tile<C>(map_q, sh.q(g), sh.q_full(g), C::Q_BYTES, column, item.row + 64 * g,
                         item.image);
        }
        int row = ragged ? full * C::KEYS : 0, row_before = 0;
        for (int j = 0; j <= tiles; j++, n++) {
            int stage = stage_of<C::STAGES>(n);
            if (j < tiles) {
                barrier_wait(sh.k_free(stage), turn_of<C::STAGES>(n) ^ 1);
                copy_tile<C>(map_kv, sh.k(stage), sh.k_full(stage), C::KV_BYTES, width + column,
                             row, item.image);
            }
            if (j > 0) {
                stage = stage_of<C::STAGES>(n - 1);
                barrier_wait(sh.v_free(stage), turn_of<C::STAGES>(n - 1) ^ 1);
                copy_tile<C>(map_kv, sh.v(stage), sh.v_full(stage), C::KV_BYTES, 2 * width + column,
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

__device__ __forceinline__ float exp2_unit(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 2^x by multiplications: 2^(x - n) with n = round(x) as a cubic, relative error 7.5e-5, then n added
 * to the exponent. Far below zero it stops at 2^-126. */
__device__ __forceinline__ float exp2_cubic(float x)
{
    x = fmaxf(x, -126.0f);
    float shifted = x + 12582912.0f; /* 1.5 * 2^23: n in the low bits */
    float r = x - (shifted - 12582912.0f);
    float y = fmaf(fmaf(fmaf(0.055171669f, r, 0.24261112f), r, 0.69326099f), r, 0.99992807f);
    return __int_as_float(__float_as_int(y) + (__float_as_int(shifted) << 23));
}

__device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* A consumer thread: rows lane / 4 and 8 further of its warp's 16. */
template <typename C> struct wgmma_rows {
    typedef typename C::T T;
    static constexpr int S = C::KEYS / 2; /* scores of a tile in this thread */
    static constexpr int LAG = 8;

    const wgmma_work &w;
    wgmma_shared<C> sh;
    int group, lane;
    uint32_t n; /* the tile whose values are due; its scores are weighed before that */
    float max[2], sum[2];
    float out[C::D / 2];
    uint32_t p[C::KEYS / 4];
    uint32_t q[C::Q_IN_REGS ? C::D / 4 : 1];
    uint32_t bits[C::MASKED ? 2 * C::KEYS / 32 : 1]; /* of the next tile */
    const uint32_t *bits_at[C::MASKED ? 2 : 1];

    /* -- products -- */

    /* Scores of tile n + LEAD. */
    template <int WIDTH, int LEAD> __device__ __forceinline__ void issue_scores(float *s)
    {
        int stage = stage_of<C::STAGES>(n + LEAD);
        barrier_wait(sh.k_full(stage), turn_of<C::STAGES>(n + LEAD));
        products_begin();
#pragma unroll
        for (int i = 0; i < C::D / 16; i++) {
            uint64_t b = operand(sh.k(stage) + i / 4 * (C::KEYS * 128) + i % 4 * 32);
            if constexpr (C::Q_IN_REGS)
                product<WIDTH, T>::template left<0>(s, q + 4 * i, b, i > 0);
            else
                product<WIDTH, T>::both(s, operand(sh.q(group) + i / 4 * (64 * 128) + i % 4 * 32),
                                        b, i > 0);
        }
        products_commit();
    }

    template <int WIDTH> __device__ __forceinline__ void issue_values()
    {
        int stage = stage_of<C::STAGES>(n);
        barrier_wait(sh.v_full(stage), turn_of<C::STAGES>(n));
        products_begin();
#pragma unroll
        for (int i = 0; i < WIDTH / 16; i++)
            product<C::D, T>::template left<1>(out, p + 4 * i,
                                               operand(sh.v(stage) + i * 2048, C::KEYS * 128), 1);
        products_commit();
    }

    /* The warpgroups issue their products in turns: then one's run while others weigh. */
    __device__ __forceinline__ void take_turn()
    {
        if constexpr (C::TURNS)
            named_wait(1 + group, 256);
    }
    __device__ __forceinline__ void give_turn()
    {
        if constexpr (C::TURNS)
            named_arrive(group + 1 < C::GROUPS ? 2 + group : 1, 256);
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
        constexpr int WORDS = C::KEYS / 32;
#pragma unroll
        for (int r = 0; r < 2; r++)
            if constexpr (WORDS == 4) {
                uint4 x = *reinterpret_cast<const uint4 *>(bits_at[r] + key / 32);
                bits[4 * r] = x.x, bits[4 * r + 1] = x.y;
                bits[4 * r + 2] = x.z, bits[4 * r + 3] = x.w;
            } else if constexpr (WORDS == 2) {
                uint2 x = *reinterpret_cast<const uint2 *>(bits_at[r] + key / 32);
                bits[2 * r] = x.x, bits[2 * r + 1] = x.y;
            }
    }

    template <int WIDTH> __device__ __forceinline__ void apply_bits(float *s)
    {
        constexpr int WORDS = C::KEYS / 32;
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

    /* -- the online softmax -- */

    /* Takes a tile into the maxima. Returns how much what was summed before must shrink. */
    template <int WIDTH> __device__ __forceinline__ bool grow(const float *s, float (&shrink)[2])
    {
        float top[2], grown[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float a = s[2 * r], b = s[2 * r + 1];
#pragma unroll
            for (int i = 4; i < WIDTH / 2; i += 4)
                a = fmaxf(a, s[i + 2 * r]), b = fmaxf(b, s[i + 2 * r + 1]);
            top[r] = fmaxf(max[r], quad_max(fmaxf(a, b)));
            grown[r] = (top[r] - max[r]) * w.to_log2; /* NaN where both are -inf: nothing grew */
        }
        bool grew = grown[0] > LAG || grown[1] > LAG;
        if (!__any_sync(0xffffffffu, grew))
            return false;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            shrink[r] = top[r] > max[r] ? exp2_unit(-grown[r]) : 1.0f;
            max[r] = top[r];
            sum[r] *= shrink[r];
        }
        return true;
    }

    __device__ __forceinline__ void shrink_out(const float (&shrink)[2])
    {
#pragma unroll
        for (int i = 0; i < C::D / 2; i++)
            out[i] *= shrink[i / 2 % 2];
    }

    /* s = 2^(c s - m) of the scores FROM to TO, and into the sums. */
    template <int FROM, int TO> __device__ __forceinline__ void weigh(float *s)
    {
        float m[2];
#pragma unroll
        for (int r = 0; r < 2; r++)
            m[r] = C::MASKED && max[r] == -INFINITY ? 0.0f : -max[r] * w.to_log2;
#pragma unroll
        for (int i = FROM; i < TO; i++) {
            float x = fmaf(s[i], w.to_log2, m[i / 2 % 2]);
            s[i] = i * C::POLY % 16 + C::POLY > 15 && C::POLY ? exp2_cubic(x) : exp2_unit(x);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float a = s[FROM + 2 * r], b = s[FROM + 2 * r + 1];
#pragma unroll
            for (int i = FROM + 4; i < TO; i += 4)
                a += s[i + 2 * r], b += s[i + 2 * r + 1];
            sum[r] += a + b;
        }
    }

    template <int FROM, int TO> __device__ __forceinline__ void pack(const float *s)
    {
#pragma unroll
        for (int i = FROM; i < TO; i += 2)
            p[i / 2] = pack2<T>(s[i], s[i + 1]);
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
        grow<WIDTH>(s, shrink); /* there is nothing to shrink */
        weigh<0, WIDTH / 2>(s);
        pack<0, WIDTH / 2>(s);
        issue_values<WIDTH>();
        products_wait<0>();
        products_touch(out);
        release_values();
    }

    __device__ __forceinline__ void any_ragged(int keys)
    {
        if (keys <= 16)
            ragged<16>(keys);
        else if (keys <= 32)
            ragged<32>(keys);
        else if (keys <= 80 && C::KEYS > 80)
            ragged < C::KEYS<80 ? C::KEYS : 80>(keys);
        else
            ragged<C::KEYS>(keys);
    }

    /* Weighs the tile whose scores are in s while the product of the weights before with their values
     * runs, and that of the scores of the next tile, into `next`. */
    template <bool FIRST, bool LAST>
    __device__ __forceinline__ void step(float (&s)[S], float (&next)[S], int next_key)
    {
        float shrink[2];
        if (!FIRST)
            issue_values<C::KEYS>();
        if (!LAST)
            issue_scores<C::KEYS, FIRST ? 1 : 2>(next);
        if constexpr (C::MASKED) {
            apply_bits<C::KEYS>(s);
            if (!LAST)
                load_bits(next_key);
        }
        bool grew = grow<C::KEYS>(s, shrink);
        weigh<0, S / 2>(s);
        if (!FIRST || !LAST)
            products_wait<0>();
        if (!LAST) {
            products_touch(next);
            release_scores(FIRST ? 1 : 2);
        }
        if (!FIRST) {
            products_touch(p);
            products_touch(out);
            release_values();
        }
        if (grew)
            shrink_out(shrink);
        pack<0, S / 2>(s);
        weigh<S / 2, S>(s);
        pack<S / 2, S>(s);
    }

    /* `tiles` full ones, with two sets of scores. */
    __device__ __forceinline__ void sweep_ahead(int tiles)
    {
        float a[S], b[S];
        issue_scores<C::KEYS, 0>(a);
        products_wait<0>();
        products_touch(a);
        release_scores(0);
        if (tiles == 1) {
            step<true, true>(a, b, 0);
        } else {
            step<true, false>(a, b, C::KEYS);
            int j = 1;
            for (; j + 2 < tiles; j += 2) {
                step<false, false>(b, a, (j + 1) * C::KEYS);
                step<false, false>(a, b, (j + 2) * C::KEYS);
            }
            if (j + 1 < tiles) {
                step<false, false>(b, a, (j + 1) * C::KEYS);
                step<false, true>(a, b, 0);
            } else {
                step<false, true>(b, a, 0);
            }
        }
        issue_values<C::KEYS>();
    }

    /* With one: a tile's scores are computed along with the product of the tile before. */
    __device__ __forceinline__ void sweep_behind(int tiles)
    {
        float s[S];
        float shrink[2];
        take_turn();
        issue_scores<C::KEYS, 0>(s);
        give_turn();
        products_wait<0>();
        products_touch(s);
        release_scores(0);
        if constexpr (C::MASKED) {
            apply_bits<C::KEYS>(s);
            load_bits(tiles > 1 ? C::KEYS : 0);
        }
        if (grow<C::KEYS>(s, shrink))
            shrink_out(shrink);
        weigh<0, S>(s);
        pack<0, S>(s);
        for (int j = 1; j < tiles; j++) {
            take_turn();
            issue_scores<C::KEYS, 1>(s);
            issue_values<C::KEYS>();
            give_turn();
            products_wait<1>();
            products_touch(s);
            release_scores(1);
            if constexpr (C::MASKED) {
                apply_bits<C::KEYS>(s);
                load_bits(j + 1 < tiles ? (j + 1) * C::KEYS : 0);
            }
            bool grew = grow<C::KEYS>(s, shrink);
            weigh<0, S>(s);
            products_wait<0>();
            products_touch(p);
            products_touch(out);
            release_values();
            if (grew)
                shrink_out(shrink);
            pack<0, S>(s);
        }
        issue_values<C::KEYS>();
    }

    __device__ __forceinline__ void start(int row)
    {
#pragma unroll
        for (int i = 0; i < C::D / 2; i++)
            out[i] = 0;
        max[0] = max[1] = -INFINITY;
        sum[0] = sum[1] = 0;
        if constexpr (C::MASKED)
            for (int r = 0; r < 2; r++) {
                int at = min(row + threadIdx.x / 32 % 4 * 16 + lane / 4 + 8 * r, w.tokens - 1);
                bits_at[r] = w.bits + (size_t)at * w.words;
            }
    }

    __device__ __forceinline__ void load_q()
    {
        int warp = threadIdx.x / 32 % 4, row = lane % 16;
#pragma unroll
        for (int i = 0; i < C::D / 16; i++) {
            int chunk = (2 * i + lane / 16) % 8 ^ row % 8;
            uint32_t at = sh.q(group) + i / 4 * (64 * 128) + (warp * 16 + row) * 128 + chunk * 16;
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(q[4 * i]), "=r"(q[4 * i + 1]), "=r"(q[4 * i + 2]),
                           "=r"(q[4 * i + 3])
                         : "r"(at)
                         : "memory");
        }
    }

    __device__ __forceinline__ void release_q()
    {
        __syncwarp();
        if (lane == 0)
            barrier_arrive(sh.q_free(group));
    }

    /* Through shared memory, where a warp has its 16 rows for itself, to 16-byte stores. */
    __device__ __forceinline__ void store(const wgmma_item &item, int row)
    {
        constexpr int CHUNKS = C::D / 8;
        int warp = threadIdx.x / 32 % 4;
        uint32_t at = sh.base + C::OUT_AT + group * C::OUT_BYTES + warp * 16 * C::PITCH * 2;
        float part[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] = quad_sum(sum[r]);
            part[r] = max[r] == -INFINITY ? 0.0f : 1 / sum[r];
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < C::D / 2; i += 2) {
            int r = i / 2 % 2;
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(
                             at + ((lane / 4 + 8 * r) * C::PITCH + i / 4 * 8 + lane % 4 * 2) * 2),
                         "r"(pack2<T>(out[i] * part[r], out[i + 1] * part[r]))
                         : "memory");
        }
        __syncwarp();
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
            if constexpr (C::Q_IN_REGS) {
                load_q();
                release_q();
            }
            if (left) {
                if constexpr (C::MASKED)
                    load_bits(full * C::KEYS);
                any_ragged(left);
            }
            if (full) {
                if constexpr (C::MASKED)
                    load_bits(0);
                if (C::AHEAD)
                    sweep_ahead(full);
                else
                    sweep_behind(full);
            }
            if constexpr (!C::Q_IN_REGS)
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
        wgmma_rows<C> rows = {w, sh, group, (int)threadIdx.x % 32, 0};
        rows.run();
    }
#endif
}

#endif
