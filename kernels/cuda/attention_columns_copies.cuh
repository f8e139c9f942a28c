/* The warpgroup of attention_columns.cuh that copies. What the layout lists is read ahead: while an
 * item's tiles are sent, the number of the item after the next is taken, and the next one's record
 * and lists are read, and each tile's keys while the tile before them is sent. So a place that
 * becomes free is filled at once.
 */
#ifndef VT_CUDA_ATTENTION_COLUMNS_COPIES_CUH
#define VT_CUDA_ATTENTION_COLUMNS_COPIES_CUH

#include "kernels/cuda/attention_columns.cuh"

#if VT_SM90A

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

template <typename C> struct columns_copies {
    const columns_work &w;
    columns_shared<C> sh;
    int warp, lane;
    ring_turn<C::STAGES> tile; /* that is filled next */
    ring_turn<2> slot;
    const char *k, *v; /* the first token's */

    enum { CHOOSER = 3 }; /* the warp that works out for all which item comes next */

    /* What all lanes know of an item, and words that the layout lists, one a lane, read by the whole
     * warp with shuffles. */
    struct item {
        int pair_phase;       /* pair * VT_CUDA_PHASES + phase; -1: it is none */
        int head;             /* of the model */
        uint32_t before;      /* where its image begins in a tensor of width() */
        int record;           /* word `lane` of the vt_cuda_item */
        int query[C::GROUPS]; /* lanes 0 to 15: token of row_of_lane() of each 64 queries */
        int keys;             /* of its last tile: listing() */
    };

    __device__ __forceinline__ columns_copies(const columns_work &work, columns_shared<C> shared)
        : w(work), sh(shared), warp(threadIdx.x / 32 % 4), lane(threadIdx.x % 32),
          k(w.qkv + width() * 16), v(k + width() * 16)
    {
        /* The compiler is not to put these sums together anew for every copy. */
        asm volatile("" : "+l"(k), "+l"(v));
    }

    __device__ __forceinline__ int thread() const
    {
        return 32 * warp + lane;
    }

    /* ---- rows ---- */

    /* This warp has rows 4 warp + 0 .. 3 of each 16; lanes 0 to 15 know their tokens. */
    __device__ __forceinline__ int row_of_lane() const
    {
        return lane / 4 % 4 * 16 + 4 * warp + lane % 4;
    }

    /* Where the rows are that this lane copies, l / 8 of the warp's four of each 16: its 16-byte
     * chunk l % 8 of them, counted in such chunks from a tensor's beginning. */
    struct lane_rows {
        uint32_t at[4];
        bool real[4];
    };

    /* Rows of the tokens that lanes list, of so many chunks, of which the first is at `origin`. */
    __device__ __forceinline__ lane_rows rows_of(int tokens, uint32_t origin, int pitch) const
    {
        lane_rows r;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int token = __shfl_sync(0xffffffffu, tokens, 4 * i + lane / 8);
            r.real[i] = token >= 0;
            r.at[i] = origin + (uint32_t)(max(token, 0) * pitch) + lane % 8;
        }
        return r;
    }

    /* 64 rows of 128 bytes, or zeros where nothing is listed. */
    __device__ __forceinline__ void copy_rows(uint32_t to, const lane_rows &r,
                                              const char *from) const
    {
        int row = 4 * warp + lane / 8;
        to += row * 128 + ((lane ^ row) & 7) * 16;
#pragma unroll
        for (int i = 0; i < 4; i++)
            copy_chunk(to + i * 2048, from + (size_t)r.at[i] * 16, r.real[i]);
    }

    /* ---- lists ---- */

    /* Of a tile: lanes 0 to 15 its keys, lane 16 + g its block for 64 queries g. */
    __device__ __forceinline__ int listing(int t) const
    {
        const int32_t *from = lane < 16 ? w.c.key : (const int32_t *)w.c.block;
        int at = lane < 16 ? t * 64 + row_of_lane() : t * C::GROUPS + min(lane - 16, C::GROUPS - 1);
        return from[at];
    }

    static __device__ __forceinline__ int pair_of(const item &it)
    {
        return it.pair_phase / VT_CUDA_PHASES;
    }
    static __device__ __forceinline__ int phase_of(const item &it)
    {
        return it.pair_phase % VT_CUDA_PHASES;
    }

    __device__ __forceinline__ int field(const item &it, size_t offset) const
    {
        return __shfl_sync(0xffffffffu, it.record, (int)(offset / 4));
    }

    __device__ __forceinline__ void read_queries(const item &it, int (&query)[C::GROUPS]) const
    {
        int group = field(it, offsetof(vt_cuda_item, group));
#pragma unroll
        for (int g = 0; g < C::GROUPS; g++)
            query[g] = w.c.query[((size_t)group * C::GROUPS + g) * 64 + row_of_lane()];
    }

    __device__ __forceinline__ void read_lists(item &it) const
    {
        if (it.pair_phase < 0)
            return;
        int tiles = field(it, offsetof(vt_cuda_item, tiles));
        read_queries(it, it.query);
        if (tiles > 0)
            it.keys = listing(field(it, offsetof(vt_cuda_item, first)) + tiles - 1);
    }

    /* ---- sending ---- */

    /* What the others must know besides the item. */
    __device__ __forceinline__ void tell(int pair, int phase, uint32_t at) const
    {
        uint32_t to = sh.item(slot.place());
        if (thread() > 0)
            return;
        store_shared(to + 4 * ITEM_PAIR, pair);
        store_shared(to + 4 * ITEM_PHASE, phase);
        store_shared(to + 4 * ITEM_AT, at);
        barrier_arrive(sh.q_full(slot.place()));
    }

    /* Where the item's head begins in rows of so many chunks a token. */
    static __device__ __forceinline__ uint32_t origin(const item &it, int rows)
    {
        return rows * it.before + it.head * (C::ROW / 16);
    }

    __device__ __forceinline__ int width() const /* chunks of a row of Q, K or V */
    {
        return w.heads * (C::ROW / 16);
    }

    __device__ __forceinline__ void send_guests(const item &it) const
    {
        int group = field(it, offsetof(vt_cuda_item, group)), row = thread() / 8, chunk = lane % 8;
        const int words = VT_COLUMN_GUESTS * 2 * C::GROUPS;
        bool real = row < w.c.guests;
        uint32_t at = origin(it, 3) + (real ? row * 3 * width() : 0) + chunk;
        if (row < VT_COLUMN_GUESTS)
            copy_chunk(sh.guest_q(slot.place()) + row * 128 + ((chunk ^ row) & 7) * 16,
                       w.qkv + (size_t)at * 16, real);
        if (thread() < words)
            copy_word(sh.guest_bits(slot.place(), 0) + thread() * 4,
                      (const uint32_t *)w.c.guest + (size_t)group * words + thread());
    }

    /* Queries, and what the others must know of the item. */
    __device__ __forceinline__ void send_item(const item &it) const
    {
        int group = field(it, offsetof(vt_cuda_item, group));
        barrier_wait(sh.q_free(slot.place()), slot.parity() ^ 1);
        if (field(it, offsetof(vt_cuda_item, tiles)) > 0)
            for (int g = 0; g < C::GROUPS; g++)
                copy_rows(sh.q(slot.place(), g), rows_of(it.query[g], origin(it, 3), 3 * width()),
                          w.qkv);
        if (field(it, offsetof(vt_cuda_item, guests)) >= 0)
            send_guests(it);
        if (thread() < 64 * C::GROUPS)
            copy_word(sh.list(slot.place(), 0) + thread() * 4,
                      w.c.query + (size_t)group * C::GROUPS * 64 + thread());
        if (thread() < ITEM_WORDS)
            store_shared(sh.item(slot.place()) + thread() * 4, it.record);
        __syncwarp();
        tell(pair_of(it), phase_of(it), origin(it, 1));
        copies_arrive(sh.q_full(slot.place()));
    }

    __device__ __forceinline__ void send_bits(int s, int list) const
    {
#pragma unroll
        for (int g = 0; g < C::GROUPS; g++) {
            uint32_t block = __shfl_sync(0xffffffffu, list, 16 + g);
            if (block < VT_BLOCK_EMPTY)
                copy_word(sh.bits(s, g) + thread() * 4, w.c.bits + (size_t)block * 128 + thread());
            if (thread() == 0)
                store_shared(sh.kind(s, g), block);
        }
        if (thread() == 0)
            barrier_arrive(sh.k_full(s));
    }

    __device__ __forceinline__ void send_tile(const item &it, int list)
    {
        int s = tile.place();
        lane_rows rows = rows_of(list, origin(it, 3), 3 * width());
        barrier_wait(sh.free(s), tile.parity() ^ 1);
        copy_rows(sh.k(s), rows, k);
        send_bits(s, list);
        copies_arrive(sh.k_full(s));
        copy_rows(sh.v(s), rows, v);
        copies_arrive(sh.v_full(s));
        tile.next();
    }

    __device__ __forceinline__ void await_phase(const item &it) const
    {
        int phase = phase_of(it);
        const uint32_t *done = w.c.done + pair_of(it) * w.s.phases + phase - 1;
        uint32_t all = C::GROUPS * (w.s.first[phase] - w.s.first[phase - 1]);
#ifdef VT_BOUNDED_WAIT
        int tries = 0;
#endif
        while (load_acquire(done) != all) {
            __nanosleep(100);
#ifdef VT_BOUNDED_WAIT
            if (tries++ > 1 << 20)
                __trap();
#endif
        }
    }

    /* That the phase before is over, and what it left of the item's rows: results in place of keys
     * and values, and their lse. */
    __device__ __forceinline__ void send_before(const item &it)
    {
        int s = tile.place(), query[C::GROUPS];
        bool merges = field(it, offsetof(vt_cuda_item, pass)) > 0;
        read_queries(it, query);
        await_phase(it);
        barrier_wait(sh.free(s), tile.parity() ^ 1);
        if (thread() == 0)
            barrier_arrive(sh.k_full(s));
        if (merges)
            for (int g = 0; g < C::GROUPS; g++) {
                copy_rows(g ? sh.v(s) : sh.k(s), rows_of(query[g], origin(it, 1), width()), w.out);
                if (lane < 16 && query[g] >= 0)
                    copy_word(sh.lse(slot.place(), g) + row_of_lane() * 4,
                              w.c.lse + (size_t)pair_of(it) * w.tokens + query[g]);
            }
        copies_arrive(sh.k_full(s));
        copies_arrive(sh.v_full(s));
        tile.next();
    }

    /* ---- items ---- */

    /* Takes a number, in the chooser's lane 0. Unlike an addition, which the compiler would make one
     * of the whole warp, that waits for the result at once. */
    __device__ __forceinline__ int take() const
    {
        int taken = 0;
        if (thread() == 32 * CHOOSER)
            asm volatile("atom.relaxed.gpu.global.inc.u32 %0, [%1], 0x7fffffff;"
                         : "=r"(taken)
                         : "l"(w.c.schedule)
                         : "memory");
        return taken;
    }

    /* Tells all which item has the number that was taken. */
    __device__ __forceinline__ void choose(int taken, uint32_t to) const
    {
        vt_columns_turn t = vt_columns_turn_of(&w.order, &w.s, __shfl_sync(0xffffffffu, taken, 0));
        int image = t.pair / w.group_heads, head = t.pair - image * w.group_heads;
        head = w.head ? w.head[head] : head;
        int pair_phase = t.phase < 0 ? -1 : t.pair * VT_CUDA_PHASES + t.phase;
        if (lane == 0)
            store_shared_16(to, make_uint4(pair_phase, head, image * w.tokens * width(), t.item));
    }

    /* The item of the number that was taken; takes the next number. */
    __device__ __forceinline__ item choose_item(int *taken, int turn) const
    {
        if (warp == CHOOSER) {
            choose(*taken, sh.next(turn));
            *taken = take();
        }
        named_wait(15, 128);
        uint4 chosen = load_shared_16(sh.next(turn));
        item it = {};
        it.pair_phase = chosen.x;
        it.head = chosen.y;
        it.before = chosen.z;
        it.record = ((const int *)(w.s.item + chosen.w))[min(lane, ITEM_WORDS - 1)];
        return it;
    }

    /* Sends an item, its last tile first. Returns the one to come next, whose number has long been
     * taken; `taken` becomes the one after that. */
    __device__ __forceinline__ item send(const item &it, int *taken)
    {
        send_item(it);
        int tiles = field(it, offsetof(vt_cuda_item, tiles)), list = it.keys, i = 0;
        int last = field(it, offsetof(vt_cuda_item, first)) + tiles - 1;
        item next;
        do {
            int then = i + 1 < tiles ? listing(last - i - 1) : 0;
            if (i < tiles)
                send_tile(it, list);
            if (i == 0)
                next = choose_item(taken, slot.place());
            list = then;
        } while (++i < tiles);
        read_lists(next);
        if (phase_of(it) > 0)
            send_before(it);
        slot.next();
        return next;
    }

    __device__ __forceinline__ void run()
    {
        /* Not the block's own number: who waits for an item must know that it has been taken. */
        int taken = take();
        item it = choose_item(&taken, 1);
        read_lists(it);
        while (it.pair_phase >= 0)
            it = send(it, &taken);
        asm volatile("cp.async.wait_all;" ::: "memory"); /* before this thread goes */
        barrier_wait(sh.q_free(slot.place()), slot.parity() ^ 1);
        if (thread() == 32 * CHOOSER) /* the last number is there: nobody takes any more */
            store_shared(sh.next(slot.place()), taken);
        tell(-1, 0, 0);
        barrier_arrive(sh.q_full(slot.place()));
    }
};

#endif
#endif
