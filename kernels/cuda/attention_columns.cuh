/* The kernel of attention_columns.cu: attention over the keys that groups of queries list
 * (columns.h), gathered, on Hopper.
 *
 * An item is some tiles of 64 keys of a group of GROUPS * 64 queries, for one head of one image.
 * Blocks take items one after the other from a counter. A block's last warpgroup copies, ahead of
 * the others (attention_columns_copies.cuh): it gathers the rows of an item's queries, then for
 * tile after tile those of keys and values and the bits, 16 bytes a thread at a time, into a ring
 * of STAGES tiles. Each of the other warpgroups has 64 queries (attention_columns_rows.cuh) and
 * computes
 *
 *   S = Q K^T    wgmma, both from shared memory; pairs whose bit is off become -inf
 *   P, m         attention_softmax.cuh
 *   O = O + P V  wgmma, P from registers
 *
 * The last tile of an item comes first: where it is narrow, its softmax is. Several blocks share a
 * multiprocessor, which hides what a block waits for. Tiles that are empty for a warpgroup's
 * queries cost it nothing. Prefix queries are guests of other groups' tiles
 * (attention_columns_guests.cuh), where the layout says so.
 *
 * Items come in phases (vt_cuda_schedule): passes over disjoint parts of a mask, each of which
 * merges what it gives with `out` and lse = log2 of the row's sum of 2^(c S) of the passes before;
 * then states that several items gave are put together. columns_order.h has the order in which
 * blocks take items; a counter for each head and phase tells when everything is there. Who waits for
 * it waits for items that others have taken before, so all get on.
 */
#ifndef VT_CUDA_ATTENTION_COLUMNS_CUH
#define VT_CUDA_ATTENTION_COLUMNS_CUH

#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/columns_order.h"

typedef struct {
    const char *qkv;
    char *out;
    const uint16_t *head;
    vt_cuda_columns c;
    vt_cuda_schedule s; /* of c */
    vt_columns_order order;
    int tokens, heads, group_heads;
    float to_log2; /* scale * log2(e) */
} columns_work;

template <typename Type, int GROUPS_> struct columns_config {
    typedef Type T;
    static constexpr int D = 64; /* head_dim: a row is 128 bytes, as the swizzle has them */
    static constexpr int GROUPS = GROUPS_, STAGES = GROUPS == 1 ? 2 : 4;
    static constexpr int BLOCKS = GROUPS == 1 ? 4 : 2; /* on a multiprocessor */
    static constexpr int THREADS = 128 * (GROUPS + 1);
    static constexpr int UNTOLD = 4; /* items that are told of together */
    static constexpr int COPY_REGS = GROUPS == 1 ? 32 : 48;
    static constexpr int REGS = 96;                    /* of 64, 80 at launch */
    static constexpr int ROW = D * 2, TILE = 64 * ROW; /* in bytes */
    static constexpr int GUEST_S_ROW = (64 + 4) * 4;   /* spreads over the banks */
    /* Where things are in shared memory. */
    static constexpr int Q_AT = 0, K_AT = Q_AT + 2 * GROUPS * TILE, V_AT = K_AT + STAGES * TILE;
    static constexpr int BITS_AT = V_AT + STAGES * TILE;
    static constexpr int GUEST_Q_AT = BITS_AT + STAGES * GROUPS * 512;
    static constexpr int GUEST_S_AT = GUEST_Q_AT + 2 * VT_COLUMN_GUESTS * ROW;
    static constexpr int GUEST_BITS_AT = GUEST_S_AT + GROUPS * VT_COLUMN_GUESTS * GUEST_S_ROW;
    static constexpr int LIST_AT = GUEST_BITS_AT + 2 * GROUPS * VT_COLUMN_GUESTS * 8;
    static constexpr int LSE_AT = LIST_AT + 2 * GROUPS * 256;
    static constexpr int ITEM_AT = LSE_AT + 2 * GROUPS * 256;
    static constexpr int KIND_AT = ITEM_AT + 2 * 64;
    static constexpr int BARRIERS_AT = (KIND_AT + STAGES * GROUPS * 4 + 15) / 16 * 16;
    static constexpr int BARRIERS = 4 + 3 * STAGES, NEXT_AT = BARRIERS_AT + 8 * BARRIERS;
    static constexpr int UNTOLD_AT = NEXT_AT + 2 * 16;
    static_assert(NEXT_AT % 16 == 0, "four words are read at once");
    static constexpr int SHARED = UNTOLD_AT + 4 * GROUPS * (UNTOLD + 1) + 1024; /* and to align */
    static_assert(BLOCKS * (SHARED + 1024) <= 228 * 1024, "fewer blocks than registers allow");
};

#if VT_SM90A

/* Where the tiles and barriers of a block are. What belongs to an item has two slots, for this item
 * and the next. */
template <typename C> struct columns_shared {
    uint32_t base;

    __device__ __forceinline__ uint32_t q(int slot, int group) const
    {
        return base + C::Q_AT + (slot * C::GROUPS + group) * C::TILE;
    }
    __device__ __forceinline__ uint32_t k(int stage) const
    {
        return base + C::K_AT + stage * C::TILE;
    }
    __device__ __forceinline__ uint32_t v(int stage) const
    {
        return base + C::V_AT + stage * C::TILE;
    }
    __device__ __forceinline__ uint32_t bits(int stage, int group) const
    {
        return base + C::BITS_AT + (stage * C::GROUPS + group) * 512;
    }
    __device__ __forceinline__ uint32_t kind(int stage, int group) const
    {
        return base + C::KIND_AT + (stage * C::GROUPS + group) * 4;
    }
    __device__ __forceinline__ uint32_t guest_q(int slot) const /* 8 rows, swizzled as tiles are */
    {
        return base + C::GUEST_Q_AT + slot * VT_COLUMN_GUESTS * C::ROW;
    }
    __device__ __forceinline__ uint32_t guest_s(int group) const /* 8 rows of 64 scores */
    {
        return base + C::GUEST_S_AT + group * VT_COLUMN_GUESTS * C::GUEST_S_ROW;
    }
    __device__ __forceinline__ uint32_t guest_bits(int slot, int group) const /* [8] of 64 bits */
    {
        return base + C::GUEST_BITS_AT + (slot * C::GROUPS + group) * VT_COLUMN_GUESTS * 8;
    }
    __device__ __forceinline__ uint32_t list(int slot, int group) const /* the queries' tokens */
    {
        return base + C::LIST_AT + (slot * C::GROUPS + group) * 256;
    }
    __device__ __forceinline__ uint32_t lse(int slot, int group) const /* of earlier passes */
    {
        return base + C::LSE_AT + (slot * C::GROUPS + group) * 256;
    }
    __device__ __forceinline__ uint32_t item(int slot) const /* 16 words */
    {
        return base + C::ITEM_AT + slot * 64;
    }
    __device__ __forceinline__ uint32_t barrier(int i) const
    {
        return base + C::BARRIERS_AT + 8 * i;
    }
    __device__ __forceinline__ uint32_t q_full(int slot) const
    {
        return barrier(slot);
    }
    __device__ __forceinline__ uint32_t q_free(int slot) const
    {
        return barrier(2 + slot);
    }
    __device__ __forceinline__ uint32_t k_full(int stage) const
    {
        return barrier(4 + stage);
    }
    __device__ __forceinline__ uint32_t v_full(int stage) const
    {
        return barrier(4 + C::STAGES + stage);
    }
    __device__ __forceinline__ uint32_t free(int stage) const
    {
        return barrier(4 + 2 * C::STAGES + stage);
    }
    __device__ __forceinline__ uint32_t
    next(int slot) const /* four words: attention_columns_copies */
    {
        return base + C::NEXT_AT + slot * 16;
    }

    /* Of items whose end has not been told yet: how many, then the counters that they count for. */
    __device__ __forceinline__ uint32_t untold(int group, int i) const
    {
        return base + C::UNTOLD_AT + (group * (C::UNTOLD + 1) + i) * 4;
    }

    __device__ __forceinline__ void init() const
    {
        for (int i = 0; i < 2; i++) {
            barrier_init(q_full(i), 128 + 1);
            barrier_init(q_free(i), 128 * C::GROUPS);
        }
        for (int s = 0; s < C::STAGES; s++) {
            barrier_init(k_full(s), 128 + 1);
            barrier_init(v_full(s), 128);
            barrier_init(free(s), 128 * C::GROUPS);
        }
        barrier_init_done();
    }
};

/* What the others must know of an item besides its vt_cuda_item, which lies before it. AT: where its
 * first token's results begin, in 16 bytes. */
enum { ITEM_WORDS = sizeof(vt_cuda_item) / 4, ITEM_PAIR = ITEM_WORDS, ITEM_PHASE, ITEM_AT };
static_assert(ITEM_AT < 16, "an item's place has 16 words");

__device__ __forceinline__ uint32_t load_shared(uint32_t from)
{
    uint32_t x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(from) : "memory");
    return x;
}

__device__ __forceinline__ void store_shared(uint32_t to, uint32_t x)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}

__device__ __forceinline__ uint4 load_shared_16(uint32_t from)
{
    uint4 x;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(from)
                 : "memory");
    return x;
}

__device__ __forceinline__ void store_shared_16(uint32_t to, uint4 x)
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z),
                 "r"(x.w)
                 : "memory");
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t *from)
{
    uint32_t x;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
    return x;
}

/* A turn of a ring of STAGES places: which one, and the parity of its barriers. */
template <int STAGES> struct ring_turn {
    static_assert((STAGES & (STAGES - 1)) == 0, "counted in one register");
    uint32_t turn = 0;

    __device__ __forceinline__ int place() const
    {
        return turn % STAGES;
    }
    __device__ __forceinline__ uint32_t parity() const
    {
        return turn / STAGES & 1;
    }
    __device__ __forceinline__ void next()
    {
        turn++;
    }
};

#endif
#endif
