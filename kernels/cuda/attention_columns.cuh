/* The kernel of attention_columns.cu: attention over the keys that groups of queries list
 * (columns.h), gathered, on Hopper.
 *
 * An item is some tiles of 64 keys of a group of GROUPS * 64 queries, for one head of one image.
 * Blocks take items one after the other from a counter. A block's last warpgroup copies, ahead of
 * the others: it gathers the rows of an item's queries, then for tile after tile those of keys and
 * values and the bits, 16 bytes a thread at a time, into a ring of STAGES tiles. Each of the other
 * warpgroups has 64 queries and computes
 *
 *   S = Q K^T    wgmma, both from shared memory; pairs whose bit is off become -inf
 *   P, m         attention_softmax.cuh
 *   O = O + P V  wgmma, P from registers
 *
 * The last tile of an item comes first: where it is narrow, its softmax is. Several blocks share a
 * multiprocessor, which hides what a block waits for. Tiles that are empty for a warpgroup's
 * queries cost it nothing.
 *
 * What an item gives is put together with what there is, where there is more:
 *   parts   of a long group: unfinished O, m and sums go to memory, and the last part to arrive
 *           adds them up
 *   passes  over disjoint parts of a mask: out and lse = log2 of the row's sum of 2^(c S) of the
 *           passes before are read, weighted by 2^lse, and written anew. Items come in the order
 *           chunk of heads, pass, head, so that a chunk's keys and values stay in the cache from
 *           pass to pass; a counter for each head and pass tells when the results are there. Who
 *           waits for it waits for items that others have taken before, so all get on.
 */
#ifndef VT_CUDA_ATTENTION_COLUMNS_CUH
#define VT_CUDA_ATTENTION_COLUMNS_CUH

#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/kernels.h"

typedef struct {
    const char *qkv;
    char *out;
    const uint16_t *head;
    vt_cuda_columns c;
    int tokens, heads, group_heads, pairs; /* pairs: of an image and a head of the group */
    int chunk;                             /* pairs that go through a pass before the next begins */
    float to_log2;                         /* scale * log2(e) */
} columns_work;

template <typename Type, int GROUPS_> struct columns_config {
    typedef Type T;
    static constexpr int D = 64; /* head_dim: a row is 128 bytes, as the swizzle has them */
    static constexpr int GROUPS = GROUPS_, STAGES = GROUPS == 1 ? 2 : 4;
    static constexpr int BLOCKS = GROUPS == 1 ? 4 : 2; /* on a multiprocessor */
    static constexpr int THREADS = 128 * (GROUPS + 1);
    static constexpr int COPY_REGS = 32;
    static constexpr int REGS = GROUPS == 1 ? 96 : 104; /* of 64, 80 at launch */
    static constexpr int ROW = D * 2, TILE = 64 * ROW;  /* in bytes */
    static constexpr int Q_AT = 0, K_AT = Q_AT + 2 * GROUPS * TILE, V_AT = K_AT + STAGES * TILE;
    static constexpr int BITS_AT = V_AT + STAGES * TILE;
    static constexpr int KIND_AT = BITS_AT + STAGES * GROUPS * 512;
    static constexpr int ITEM_AT = KIND_AT + STAGES * GROUPS * 4;
    static constexpr int BARRIERS_AT = (ITEM_AT + 2 * 64 + 15) / 16 * 16;
    static constexpr int BARRIERS = 4 + 3 * STAGES, LAST_AT = BARRIERS_AT + 8 * BARRIERS;
    static constexpr int SHARED = LAST_AT + 16 + 1024; /* and to align */
};

#if VT_SM90A

/* Where the tiles and barriers of a block are. Queries have two slots, for this item and the next. */
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
    __device__ __forceinline__ uint32_t last() const /* two words: of copies, of arithmetic */
    {
        return base + C::LAST_AT;
    }

    __device__ __forceinline__ void init() const
    {
        for (int i = 0; i < 2; i++) {
            barrier_init(q_full(i), 128 + 1);
            barrier_init(q_free(i), 4 * C::GROUPS);
        }
        for (int s = 0; s < C::STAGES; s++) {
            barrier_init(k_full(s), 128);
            barrier_init(v_full(s), 128);
            barrier_init(free(s), 4 * C::GROUPS);
        }
        barrier_init_done();
    }
};

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

/* A turn of a ring of STAGES places: which one, and the parity of its barriers. */
template <int STAGES> struct ring_turn {
    int place = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void next()
    {
        if (++place == STAGES) {
            place = 0;
            parity ^= 1;
        }
    }
};

/* ---- copying: a warpgroup ---- */

/* 16 bytes, or zeros. */
__device__ __forceinline__ void copy_chunk(uint32_t to, const char *from, bool real)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(real ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void copy_word(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}

/* The barrier sees this thread arrive when its copies so far are there. */
__device__ __forceinline__ void copies_arrive(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

/* Shows the copies that a barrier told of to products, which read by another way. */
__device__ __forceinline__ void copies_seen()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t *from)
{
    uint32_t x;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
    return x;
}

/* 64 rows: thread t of 128 has 16-byte chunk t % 8 of rows t / 8, 16 further and so on. */
struct row_gather {
    int token[4];

    /* listed[0 .. 63] names tokens, or nothing (-1). */
    __device__ __forceinline__ void list(const int32_t *listed, int thread)
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            token[i] = listed[16 * i + thread / 8];
    }

    __device__ __forceinline__ void copy(uint32_t to, const char *rows, uint32_t pitch,
                                         int thread) const
    {
        int row = thread / 8, chunk = thread % 8;
        to += row * 128 + ((chunk ^ row) & 7) * 16;
#pragma unroll
        for (int i = 0; i < 4; i++)
            copy_chunk(to + i * 2048, rows + (size_t)max(token[i], 0) * pitch + chunk * 16,
                       token[i] >= 0);
    }
};

/* Where an item is in the order that the top of this file gives. */
struct columns_place {
    int pair, item, pass;
};

__device__ __forceinline__ columns_place place_of(const columns_work &w, int index)
{
    columns_place at;
    int items = w.c.first[w.c.passes]; /* of a pair, all passes */
    int chunk = index / (w.chunk * items), left = index - chunk * w.chunk * items;
    int pairs = min(w.chunk, w.pairs - chunk * w.chunk);
    at.pass = 0;
    while (at.pass + 1 < w.c.passes && left >= pairs * w.c.first[at.pass + 1])
        at.pass++;
    left -= pairs * w.c.first[at.pass];
    items = w.c.first[at.pass + 1] - w.c.first[at.pass];
    at.pair = chunk * w.chunk + left / items;
    at.item = w.c.first[at.pass] + left % items;
    return at;
}

template <typename C> struct columns_copies {
    const columns_work &w;
    columns_shared<C> sh;
    int thread;
    ring_turn<C::STAGES> tile; /* that is filled next */
    ring_turn<2> slot;

    struct cursor { /* an item */
        columns_place at;
        int group, first, tiles;
    };
    struct listing { /* what a tile of the layout lists */
        int tile;
        row_gather keys;
        uint32_t block[C::GROUPS];
    };

    __device__ __forceinline__ columns_copies(const columns_work &work, columns_shared<C> shared)
        : w(work), sh(shared), thread(threadIdx.x % 128)
    {
    }

    /* The number of the next item, the same to all threads. */
    __device__ __forceinline__ int take()
    {
        named_wait(15, 128);
        if (thread == 0)
            store_shared(sh.last(), atomicAdd(w.c.schedule, 1));
        named_wait(15, 128);
        return load_shared(sh.last());
    }

    __device__ __forceinline__ int total() const
    {
        return w.pairs * w.c.first[w.c.passes];
    }

    __device__ __forceinline__ cursor item_of(int index) const
    {
        cursor c;
        c.at = place_of(w, index);
        const vt_cuda_item *item = w.c.item + c.at.item;
        c.group = item->group;
        c.first = item->first;
        c.tiles = item->tiles;
        return c;
    }

    __device__ __forceinline__ listing list(int t) const
    {
        listing l;
        l.tile = t;
        l.keys.list(w.c.key + (size_t)t * 64, thread);
        for (int g = 0; g < C::GROUPS; g++)
            l.block[g] = w.c.block[(size_t)t * C::GROUPS + g];
        return l;
    }

    /* What the others must know besides; pair -1: there are no more items. */
    __device__ __forceinline__ void tell(int pair, int pass, int head) const
    {
        uint32_t to = sh.item(slot.place) + sizeof(vt_cuda_item);
        if (thread > 0)
            return;
        store_shared(to, pair);
        store_shared(to + 4, pass);
        store_shared(to + 8, head);
        barrier_arrive(sh.q_full(slot.place));
    }

    /* Queries, and what the others must know of the item. */
    __device__ __forceinline__ void send_item(const cursor &c, const char *q, int head)
    {
        const int words = sizeof(vt_cuda_item) / 4;
        row_gather rows;
        barrier_wait(sh.q_free(slot.place), slot.parity ^ 1);
        for (int g = 0; g < C::GROUPS; g++) {
            rows.list(w.c.query + ((size_t)c.group * C::GROUPS + g) * 64, thread);
            rows.copy(sh.q(slot.place, g), q, 3 * w.heads * C::ROW, thread);
        }
        if (thread < words)
            copy_word(sh.item(slot.place) + thread * 4,
                      (const int *)(w.c.item + c.at.item) + thread);
        tell(c.at.pair, c.at.pass, head);
        copies_arrive(sh.q_full(slot.place));
        slot.next();
    }

    __device__ __forceinline__ void send_tile(const listing &l, const char *q)
    {
        int s = tile.place, width = w.heads * C::ROW;
        barrier_wait(sh.free(s), tile.parity ^ 1);
        for (int g = 0; g < C::GROUPS; g++) {
            if (l.block[g] < VT_BLOCK_EMPTY)
                copy_word(sh.bits(s, g) + thread * 4, w.c.bits + (size_t)l.block[g] * 128 + thread);
        }
        if (thread < C::GROUPS)
            copy_word(sh.kind(s, thread), w.c.block + (size_t)l.tile * C::GROUPS + thread);
        l.keys.copy(sh.k(s), q + width, 3 * width, thread);
        copies_arrive(sh.k_full(s));
        l.keys.copy(sh.v(s), q + 2 * width, 3 * width, thread);
        copies_arrive(sh.v_full(s));
        tile.next();
    }

    /* The output rows of earlier passes, in place of keys and values, when they are there. */
    __device__ __forceinline__ void send_before(const cursor &c, const char *out)
    {
        row_gather rows;
        const uint32_t *done = w.c.done + c.at.pair * w.c.passes + c.at.pass - 1;
        uint32_t all = 4 * C::GROUPS * w.c.groups[c.at.pass - 1]; /* warps */
        barrier_wait(sh.free(tile.place), tile.parity ^ 1);
        while (load_acquire(done) != all)
            __nanosleep(100);
        for (int g = 0; g < C::GROUPS; g++) {
            rows.list(w.c.query + ((size_t)c.group * C::GROUPS + g) * 64, thread);
            rows.copy(g ? sh.v(tile.place) : sh.k(tile.place), out, w.heads * C::ROW, thread);
        }
        copies_arrive(sh.k_full(tile.place));
        copies_arrive(sh.v_full(tile.place));
        tile.next();
    }

    /* An item's tiles go last first; l is of its last tile. */
    __device__ __forceinline__ void send(const cursor &c, listing l)
    {
        int image = c.at.pair / w.group_heads, head = c.at.pair - image * w.group_heads;
        size_t row = (size_t)image * w.tokens * w.heads * C::ROW;
        head = w.head ? w.head[head] : head;
        const char *q = w.qkv + 3 * row + head * C::ROW;
        send_item(c, q, head);
        for (int t = c.tiles - 1; t >= 0; t--) {
            listing then = l;
            if (t > 0)
                then = list(c.first + t - 1);
            send_tile(l, q);
            l = then;
        }
        if (c.at.pass > 0)
            send_before(c, w.out + row + head * C::ROW);
    }

    __device__ __forceinline__ void run()
    {
        for (int index = take(); index < total(); index = take()) {
            cursor c = item_of(index);
            listing l = {};
            if (c.tiles > 0)
                l = list(c.first + c.tiles - 1);
            send(c, l);
        }
        asm volatile("cp.async.wait_all;" ::: "memory"); /* before this thread goes */
        tell_end();
    }

    /* To the others: an item that is none. The last block leaves the counters as they were. */
    __device__ __forceinline__ void tell_end()
    {
        barrier_wait(sh.q_free(slot.place), slot.parity ^ 1);
        tell(-1, 0, 0);
        barrier_arrive(sh.q_full(slot.place));
        if (thread == 0 && atomicAdd(w.c.schedule + 1, 1) == gridDim.x - 1)
            w.c.schedule[0] = w.c.schedule[1] = 0;
    }
};

/* ---- arithmetic: a warpgroup ---- */

template <typename C> struct columns_rows : softmax_rows<typename C::T, 64, C::D, true> {
    typedef typename C::T T;
    typedef softmax_rows<T, 64, C::D, true> softmax;
    using softmax::max;
    using softmax::out;
    using softmax::p;
    using softmax::S;
    using softmax::sum;

    const columns_work &w;
    columns_shared<C> sh;
    int group, warp, lane;
    int left;                  /* tiles whose scores are due */
    ring_turn<C::STAGES> tile; /* whose values are due; its scores are weighed before that */
    ring_turn<2> slot;         /* of the item */
    bool unsaid;               /* there is something to tell of, in w.c.done[said_of] */
    int said_of;

    __device__ __forceinline__ columns_rows(const columns_work &work, columns_shared<C> shared,
                                            int which)
        : w(work), sh(shared), group(which), warp(threadIdx.x / 32 % 4), lane(threadIdx.x % 32),
          left(0), unsaid(false), said_of(0)
    {
    }

    /* -- the item: in shared memory, because registers are few -- */

    __device__ __forceinline__ int field(size_t offset) const
    {
        return load_shared(sh.item(slot.place) + (uint32_t)offset);
    }
    __device__ __forceinline__ int pair() const /* -1: there are no more items */
    {
        return field(sizeof(vt_cuda_item));
    }
    __device__ __forceinline__ int pass() const
    {
        return field(sizeof(vt_cuda_item) + 4);
    }
    __device__ __forceinline__ int head() const /* of the layer */
    {
        return field(sizeof(vt_cuda_item) + 8);
    }

    /* -- masks -- */

    template <int WIDTH> __device__ __forceinline__ void switch_off(float *s)
    {
        if (load_shared(sh.kind(tile.place, group)) == VT_BLOCK_FULL)
            return;
        uint32_t word = load_shared(sh.bits(tile.place, group) + threadIdx.x % 128 * 4);
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i++)
            s[i] = word & (1u << i) ? s[i] : -INFINITY;
    }

    /* -- products -- */

    __device__ __forceinline__ void issue_scores(float *s)
    {
        barrier_wait(sh.k_full(tile.place), tile.parity);
        copies_seen();
        products_begin();
#pragma unroll
        for (int i = 0; i < C::D / 16; i++)
            product<64, T>::both(s, operand(sh.q(slot.place, group) + i * 32),
                                 operand(sh.k(tile.place) + i * 32), i > 0);
        products_commit();
    }

    __device__ __forceinline__ void issue_values()
    {
        barrier_wait(sh.v_full(tile.place), tile.parity);
        copies_seen();
        products_begin();
#pragma unroll
        for (int i = 0; i < 4; i++)
            product<C::D, T>::template left<1>(out, p + 4 * i, operand(sh.v(tile.place) + i * 2048),
                                               1);
        products_commit();
    }

    /* And on to the next tile. */
    __device__ __forceinline__ void release()
    {
        if (lane == 0)
            barrier_arrive(sh.free(tile.place));
        tile.next();
    }

    /* -- tiles -- */

    /* Has this warpgroup nothing in the tile? */
    __device__ __forceinline__ bool is_empty() const
    {
        barrier_wait(sh.k_full(tile.place), tile.parity);
        return load_shared(sh.kind(tile.place, group)) == VT_BLOCK_EMPTY;
    }

    __device__ __forceinline__ void skip()
    {
        barrier_wait(sh.v_full(tile.place), tile.parity);
        release();
        left--;
    }

    /* The weights of a tile of at most WIDTH real keys, where no values are due. */
    template <int WIDTH> __device__ __forceinline__ void first()
    {
        float s[S], shrink[2];
        issue_scores(s);
        products_wait<0>();
        products_touch(s);
        switch_off<WIDTH>(s);
        if (softmax::template grow<WIDTH>(s, w.to_log2, shrink))
            softmax::shrink_out(shrink);
        softmax::template weigh<WIDTH>(s, w.to_log2);
#pragma unroll
        for (int i = WIDTH / 4; i < 16; i++)
            p[i] = 0;
        softmax::template pack<WIDTH>(s);
        left--;
    }

    __device__ __forceinline__ void last()
    {
        issue_values();
        products_wait<0>();
        products_touch(p);
        products_touch(out);
        release();
    }

    /* The tile that comes first, where it has few keys. */
    __device__ __forceinline__ void narrow()
    {
        if (is_empty()) {
            skip();
        } else {
            first<16>();
            last();
        }
    }

    __device__ __forceinline__ void all_tiles()
    {
        left = field(offsetof(vt_cuda_item, tiles));
        if (left > 0 && field(offsetof(vt_cuda_item, narrow)) <= 16)
            narrow();
        while (left > 0) {
            if (is_empty()) {
                skip();
                continue;
            }
            first<64>();
            last();
        }
    }

    /* -- parts -- */

    __device__ __forceinline__ int row(int r) const /* of the group */
    {
        return group * 64 + 16 * warp + lane / 4 + 8 * r;
    }

    /* Where part i keeps row r: D of O, then m and the sum. */
    __device__ __forceinline__ float *part(int i, int r) const
    {
        size_t at = (size_t)pair() * w.c.slots + field(offsetof(vt_cuda_item, slot)) + row(r) +
                    i * field(offsetof(vt_cuda_item, rows));
        return w.c.part + at * (C::D + 2);
    }

    __device__ __forceinline__ void put_part() const
    {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            if (row(r) >= field(offsetof(vt_cuda_item, rows)))
                continue;
            float *to = part(field(offsetof(vt_cuda_item, part)), r);
#pragma unroll
            for (int i = 0; i < C::D / 8; i++)
                *reinterpret_cast<float2 *>(to + 8 * i + lane % 4 * 2) =
                    make_float2(out[4 * i + 2 * r], out[4 * i + 2 * r + 1]);
            if (lane % 4 == 0)
                *reinterpret_cast<float2 *>(to + C::D) = make_float2(max[r], sum[r]);
        }
    }

    /* Is this the last part of its group to get here? Whoever is may read the others'. */
    __device__ __forceinline__ bool arrive_last() const
    {
        __threadfence();
        named_wait(1, 128 * C::GROUPS);
        if (threadIdx.x == 0) {
            uint32_t *counter =
                w.c.arrived + (size_t)pair() * w.c.chains + field(offsetof(vt_cuda_item, chain));
            uint32_t is_last = atomicAdd(counter, 1) == field(offsetof(vt_cuda_item, parts)) - 1;
            if (is_last)
                *counter = 0;
            __threadfence();
            store_shared(sh.last() + 4, is_last);
        }
        named_wait(1, 128 * C::GROUPS);
        return load_shared(sh.last() + 4);
    }

    /* Adds up all parts of row r. */
    __device__ __forceinline__ void add_parts(int r)
    {
        int parts = field(offsetof(vt_cuda_item, parts));
        max[r] = -INFINITY;
        sum[r] = 0;
        for (int i = 0; i < parts; i++)
            max[r] = fmaxf(max[r], __ldcg(part(i, r) + C::D));
#pragma unroll
        for (int i = 0; i < C::D / 8; i++)
            out[4 * i + 2 * r] = out[4 * i + 2 * r + 1] = 0;
        if (max[r] == -INFINITY)
            return;
        for (int j = 0; j < parts; j++) {
            const float *from = part(j, r);
            float shrink = exp2_unit((__ldcg(from + C::D) - max[r]) * w.to_log2);
            sum[r] += shrink * __ldcg(from + C::D + 1);
#pragma unroll
            for (int i = 0; i < C::D / 8; i++) {
                float2 o = __ldcg(reinterpret_cast<const float2 *>(from + 8 * i + lane % 4 * 2));
                out[4 * i + 2 * r] += shrink * o.x;
                out[4 * i + 2 * r + 1] += shrink * o.y;
            }
        }
    }

    /* -- results -- */

    /* Chunk of 16 bytes of one of the warp's rows: in the queries' place, which nobody needs any
     * more, or where the rows of earlier passes are. */
    __device__ __forceinline__ uint32_t staged(uint32_t tile_at, int in_warp, int chunk) const
    {
        int r = 16 * warp + in_warp;
        return tile_at + r * C::ROW + ((chunk ^ r) & 7) * 16;
    }

    /* What earlier passes have, and this one, of a row's sum; *lse becomes that of both. */
    __device__ __forceinline__ float2 weights(int r, float *lse) const
    {
        float now = max[r] == -INFINITY ? -INFINITY : max[r] * w.to_log2 + log2_unit(sum[r]);
        float top = fmaxf(now, *lse);
        if (top == -INFINITY)
            return make_float2(0, 0);
        float a = exp2_unit(*lse - top), b = exp2_unit(now - top);
        *lse = top + log2_unit(a + b);
        return make_float2(a / (a + b), now == -INFINITY ? 0 : b / ((a + b) * sum[r]));
    }

    __device__ __forceinline__ void stage_row(uint32_t tile_at, int r, float2 weight, bool before)
    {
#pragma unroll
        for (int i = 0; i < C::D / 8; i++) {
            uint32_t to = staged(tile_at, lane / 4 + 8 * r, i) + lane % 4 * 4;
            float2 o =
                make_float2(out[4 * i + 2 * r] * weight.y, out[4 * i + 2 * r + 1] * weight.y);
            if (before) {
                float2 b = unpack2<T>(load_shared(to));
                o.x = fmaf(b.x, weight.x, o.x);
                o.y = fmaf(b.y, weight.x, o.y);
            }
            store_shared(to, pack2<T>(o.x, o.y));
        }
    }

    __device__ __forceinline__ const int32_t *queries() const
    {
        return w.c.query + ((size_t)field(offsetof(vt_cuda_item, group)) * C::GROUPS + group) * 64 +
               16 * warp;
    }

    __device__ __forceinline__ void finish_row(uint32_t tile_at, int r)
    {
        if (w.c.passes == 1) {
            stage_row(tile_at, r, make_float2(0, max[r] == -INFINITY ? 0 : 1 / sum[r]), false);
            return;
        }
        int token = queries()[lane / 4 + 8 * r];
        bool before = pass() > 0;
        float *at_lse = w.c.lse + (size_t)pair() * w.tokens + (token < 0 ? 0 : token);
        float lse = before && token >= 0 ? __ldcg(at_lse) : -INFINITY;
        __syncwarp(); /* all of a row's lanes have read it */
        float2 weight = weights(r, &lse);
        if (lane % 4 == 0 && token >= 0)
            *at_lse = lse;
        stage_row(tile_at, r, weight, before);
    }

    /* From shared memory, 16 bytes at a time. */
    __device__ __forceinline__ void store(uint32_t tile_at) const
    {
        size_t pitch = (size_t)w.heads * C::ROW;
        char *to = w.out + (size_t)(pair() / w.group_heads) * w.tokens * pitch + head() * C::ROW;
        const int32_t *query = queries();
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int in_warp = 4 * i + lane / 8;
            int t = query[in_warp];
            uint4 x;
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                         : "r"(staged(tile_at, in_warp, lane % 8))
                         : "memory");
            if (t >= 0)
                *reinterpret_cast<uint4 *>(to + t * pitch + lane % 8 * 16) = x;
        }
    }

    /* Tells later passes of what this warp has stored: one step late, when that has long arrived. */
    __device__ __forceinline__ void tell_done()
    {
        if (unsaid && lane == 0) {
            uint32_t *done = w.c.done + said_of, before;
            int in = said_of % w.c.passes;
            asm volatile("atom.add.release.gpu.global.u32 %0, [%1], 1;"
                         : "=r"(before)
                         : "l"(done)
                         : "memory");
            if (before == 4 * C::GROUPS * w.c.groups[in] - 1 && in == w.c.passes - 1)
                for (int i = 0; i < w.c.passes; i++) /* nobody waits for this head any more */
                    done[-i] = 0;
        }
        unsaid = false;
    }

    /* Is this warpgroup's share of the output complete? Not where other parts are to come. */
    __device__ __forceinline__ bool join_parts()
    {
        if (field(offsetof(vt_cuda_item, parts)) == 1)
            return true;
        put_part();
        if (!arrive_last())
            return false;
        for (int r = 0; r < 2; r++)
            if (row(r) < field(offsetof(vt_cuda_item, rows)))
                add_parts(r);
        return true;
    }

    __device__ __forceinline__ void finish()
    {
        bool before = pass() > 0;
        uint32_t tile_at = sh.q(slot.place, group);
        tell_done(); /* before this warp waits for others */
        if (before) {
            barrier_wait(sh.k_full(tile.place), tile.parity);
            barrier_wait(sh.v_full(tile.place), tile.parity);
            tile_at = group ? sh.v(tile.place) : sh.k(tile.place);
        } else {
            named_wait(2 + group, 128); /* all of the warpgroup are through with the queries */
        }
        for (int r = 0; r < 2; r++)
            sum[r] = quad_sum(sum[r]);
        if (join_parts()) {
            finish_row(tile_at, 0);
            finish_row(tile_at, 1);
            store(tile_at);
            if (w.c.passes > 1) {
                unsaid = true;
                said_of = pair() * w.c.passes + pass();
            }
        }
        __syncwarp();
        if (before)
            release();
    }

    __device__ __forceinline__ void run()
    {
        for (;;) {
            barrier_wait(sh.q_full(slot.place), slot.parity);
            if (pair() < 0)
                break;
            softmax::start_rows();
            all_tiles();
            finish();
            if (lane == 0)
                barrier_arrive(sh.q_free(slot.place));
            slot.next();
        }
        tell_done();
    }
};

#endif

template <typename C>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS) columns_attend(const columns_work w)
{
#if VT_SM90A
    extern __shared__ char raw[];
    columns_shared<C> sh = {(shared_offset(raw) + 1023) & ~1023u};
    if (threadIdx.x == 0)
        sh.init();
    __syncthreads();
    after_previous();
    let_next_start();
    /* the same in all lanes, and known to be */
    int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (group == C::GROUPS) {
        fewer_registers<C::COPY_REGS>();
        columns_copies<C> copies(w, sh);
        copies.run();
    } else {
        more_registers<C::REGS>();
        columns_rows<C> rows(w, sh, group);
        rows.run();
    }
#endif
}

#endif
