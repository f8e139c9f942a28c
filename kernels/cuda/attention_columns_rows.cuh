/* A warpgroup of attention_columns.cuh that computes: 64 queries of each item, tile after tile, and
 * what becomes of the result:
 *
 *   given    where others have more of these rows: the state goes to memory
 *   merged   with what earlier passes left, which the copying warpgroup has brought, and written
 *   put together, without tiles, from states that were given
 *
 * Registers are few: what is known of the item stays in shared memory.
 */
#ifndef VT_CUDA_ATTENTION_COLUMNS_ROWS_CUH
#define VT_CUDA_ATTENTION_COLUMNS_ROWS_CUH

#include "kernels/cuda/attention_columns.cuh"
#include "kernels/cuda/attention_columns_guests.cuh"

#if VT_SM90A

/* Shows the copies that a barrier told of to products, which read by another way. */
__device__ __forceinline__ void copies_seen()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

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
    bool fresh;                /* nothing has come into `out` yet, which is whatever it was */
    ring_turn<C::STAGES> tile; /* whose values are due; its scores are weighed before that */
    ring_turn<2> slot;         /* of the item */

    __device__ __forceinline__ columns_rows(const columns_work &work, columns_shared<C> shared,
                                            int which)
        : w(work), sh(shared), group(which), warp(threadIdx.x / 32 % 4), lane(threadIdx.x % 32),
          left(0), fresh(true)
    {
        if (leads())
            store_shared(sh.untold(group, 0), 0);
    }

    /* -- the item -- */

    __device__ __forceinline__ int word(int i) const
    {
        return load_shared(sh.item(slot.place()) + 4 * i);
    }
    __device__ __forceinline__ int field(size_t offset) const
    {
        return word((int)offset / 4);
    }
    __device__ __forceinline__ int pair() const /* -1: there are no more items */
    {
        return word(ITEM_PAIR);
    }
    __device__ __forceinline__ int token(int in_warp) const /* -1: no query */
    {
        return load_shared(sh.list(slot.place(), group) + (16 * warp + in_warp) * 4);
    }

    /* -- masks -- */

    /* Which pairs of the tile are on: all of them in a full one. */
    __device__ __forceinline__ uint32_t on(int stage, uint32_t kind) const
    {
        return kind == VT_BLOCK_FULL ? ~0u
                                     : load_shared(sh.bits(stage, group) + threadIdx.x % 128 * 4);
    }

    template <int WIDTH> static __device__ __forceinline__ void switch_off(float *s, uint32_t on)
    {
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i++)
            s[i] = on & (1u << i) ? s[i] : -INFINITY;
    }

    /* -- products, with WIDTH keys of the tile in a stage -- */

    /* The same in all lanes, and known to be: what products read is described in registers that a
     * warp has once. */
    static __device__ __forceinline__ uint32_t uniform(uint32_t x)
    {
        return __shfl_sync(0xffffffffu, x, 0);
    }

    template <int WIDTH> __device__ __forceinline__ void issue_scores(float *s, int stage)
    {
        uint32_t q = uniform(sh.q(slot.place(), group));
        copies_seen();
        products_begin();
#pragma unroll
        for (int i = 0; i < C::D / 16; i++)
            product<WIDTH, T>::both(s, operand(q + i * 32), operand(sh.k(stage) + i * 32), i > 0);
        products_commit();
    }

    template <int WIDTH> __device__ __forceinline__ void issue_values(int stage)
    {
        barrier_wait(sh.v_full(stage), tile.parity());
        copies_seen();
        products_begin();
#pragma unroll
        for (int i = 0; i < WIDTH / 16; i++)
            product<C::D, T>::template left<1>(out, p + 4 * i, operand(sh.v(stage) + i * 2048),
                                               i > 0 || !fresh);
        products_commit();
        fresh = false;
    }

    /* And on to the next tile. */
    __device__ __forceinline__ void release()
    {
        barrier_arrive(sh.free(tile.place()));
        tile.next();
    }

    /* -- tiles -- */

    /* Is the tile that comes next the one whose guests this warpgroup has? */
    __device__ __forceinline__ bool hosts() const
    {
        return left - 1 == group && field(offsetof(vt_cuda_item, guests)) >= 0;
    }

    __device__ __forceinline__ void serve_guests() const
    {
        tile_guests<T> g;
        g.q = sh.guest_q(slot.place());
        g.k = sh.k(tile.place());
        g.v = sh.v(tile.place());
        g.bits = sh.guest_bits(slot.place(), group);
        g.s = sh.guest_s(group);
        g.warp = warp;
        g.lane = lane;
        g.barrier = 2 + group;
        g.attend(state(field(offsetof(vt_cuda_item, guests)) + group * w.c.guests), w.c.guests,
                 w.to_log2);
    }

    /* The weights of a tile of at most WIDTH real keys, where no values are due. */
    template <int WIDTH> __device__ __forceinline__ void weigh(int stage, uint32_t pairs)
    {
        float s[WIDTH / 2], shrink[2];
        issue_scores<WIDTH>(s, stage);
        products_wait<0>();
        products_touch(s);
        if (pairs != ~0u)
            switch_off<WIDTH>(s, pairs);
        if (softmax::template grow<WIDTH>(s, w.to_log2, shrink) && !fresh)
            softmax::shrink_out(shrink);
        softmax::template weigh<WIDTH>(s, w.to_log2);
        softmax::template pack<WIDTH>(s);
        products_touch(p); /* now, while the values may still be on their way */
    }

    /* The next tile. HOST: it may have guests. */
    template <int WIDTH, bool HOST> __device__ __forceinline__ void attend()
    {
        int stage = uniform(tile.place());
        barrier_wait(sh.k_full(stage), tile.parity());
        uint32_t kind = load_shared(sh.kind(stage, group));
        if (kind == VT_BLOCK_EMPTY) { /* for this warpgroup */
            barrier_wait(sh.v_full(stage), tile.parity());
            if (HOST && hosts())
                serve_guests();
        } else {
            weigh<WIDTH>(stage, on(stage, kind));
            issue_values<WIDTH>(stage);
            if (HOST && hosts())
                serve_guests();
            products_wait<0>();
            products_touch(p);
            products_touch(out);
        }
        release();
        left--;
    }

    __device__ __forceinline__ void all_tiles()
    {
        left = field(offsetof(vt_cuda_item, tiles));
        if (left > 0 && field(offsetof(vt_cuda_item, narrow)) <= 16)
            attend<16, true>();
        while (left > C::GROUPS)
            attend<64, false>();
        while (left > 0)
            attend<64, true>();
    }

    /* -- states -- */

    __device__ __forceinline__ int row(int r) const /* of the group */
    {
        return group * 64 + 16 * warp + lane / 4 + 8 * r;
    }

    /* D of O, then m and the sum. */
    __device__ __forceinline__ float *state(int at) const
    {
        return w.c.state + ((size_t)pair() * w.s.slots + at) * (C::D + 2);
    }

    __device__ __forceinline__ void give() const
    {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            if (row(r) >= field(offsetof(vt_cuda_item, rows)))
                continue;
            float *to = state(field(offsetof(vt_cuda_item, give)) + row(r));
#pragma unroll
            for (int i = 0; i < C::D / 8; i++)
                *reinterpret_cast<float2 *>(to + 8 * i + lane % 4 * 2) =
                    make_float2(out[4 * i + 2 * r], out[4 * i + 2 * r + 1]);
            if (lane % 4 == 0)
                *reinterpret_cast<float2 *>(to + C::D) = make_float2(max[r], sum[r]);
        }
    }

    enum { FEW = 4 }; /* states that a thread adds by itself */

    /* Every FEW-th state of a row, from the warp's own on, into that one: 8 lanes have a state,
     * each 8 floats. */
    __device__ __forceinline__ void add_states(int in_group, int parts) const
    {
        int eighth = lane % 8;
        size_t step = (size_t)field(offsetof(vt_cuda_item, rows)) * (C::D + 2);
        float *first = state(field(offsetof(vt_cuda_item, slot)) + in_group);
        float most = -INFINITY, all = 0, o[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll 1
        for (int i = warp + FEW * lane; i < parts; i += FEW * 32)
            most = fmaxf(most, __ldcg(first + i * step + C::D));
#pragma unroll
        for (int i = 16; i > 0; i /= 2)
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, i));
        float m = most == -INFINITY ? 0 : most;
#pragma unroll 2
        for (int i = warp + FEW * (lane / 8); i < parts; i += FEW * 4) {
            const float *from = first + i * step;
            float2 top_sum = __ldcg(reinterpret_cast<const float2 *>(from + C::D));
            float shrink = exp2_unit((top_sum.x - m) * w.to_log2);
            all += shrink * top_sum.y;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float2 x = __ldcg(reinterpret_cast<const float2 *>(from + 16 * j + 2 * eighth));
                o[2 * j] += shrink * x.x;
                o[2 * j + 1] += shrink * x.y;
            }
        }
#pragma unroll
        for (int i = 8; i < 32; i *= 2) {
            all += __shfl_xor_sync(0xffffffffu, all, i);
#pragma unroll
            for (int j = 0; j < 8; j++)
                o[j] += __shfl_xor_sync(0xffffffffu, o[j], i);
        }
        first += warp * step;
        if (lane < 8)
#pragma unroll
            for (int j = 0; j < 4; j++)
                *reinterpret_cast<float2 *>(first + 16 * j + 2 * eighth) =
                    make_float2(o[2 * j], o[2 * j + 1]);
        if (lane == 0)
            *reinterpret_cast<float2 *>(first + C::D) = make_float2(most, all);
    }

    /* The first states of row r, at most FEW. */
    __device__ __forceinline__ void take_row(int r, int parts)
    {
        size_t step = (size_t)field(offsetof(vt_cuda_item, rows)) * (C::D + 2);
        const float *from = state(field(offsetof(vt_cuda_item, slot)) + row(r));
        float top[FEW];
#pragma unroll
        for (int i = 0; i < FEW; i++)
            top[i] = i < parts ? __ldcg(from + i * step + C::D) : -INFINITY;
#pragma unroll
        for (int i = 0; i < FEW; i++)
            max[r] = fmaxf(max[r], top[i]);
        float m = max[r] == -INFINITY ? 0 : max[r];
#pragma unroll
        for (int i = 0; i < FEW; i++, from += step) {
            if (i >= parts)
                break;
            float shrink = exp2_unit((top[i] - m) * w.to_log2);
            sum[r] += shrink * __ldcg(from + C::D + 1);
#pragma unroll
            for (int j = 0; j < C::D / 8; j++) {
                float2 x = __ldcg(reinterpret_cast<const float2 *>(from + 8 * j + lane % 4 * 2));
                out[4 * j + 2 * r] += shrink * x.x;
                out[4 * j + 2 * r + 1] += shrink * x.y;
            }
        }
    }

    /* What the states that were given make together becomes this warpgroup's. */
    __device__ __forceinline__ void take()
    {
        int rows = field(offsetof(vt_cuda_item, rows)),
            parts = field(offsetof(vt_cuda_item, parts));
        load_acquire(w.c.done + pair() * w.s.phases + word(ITEM_PHASE) - 1); /* sees what is told */
        if (parts > FEW) {
#pragma unroll 1
            for (int r = group * 64; r < rows && r < group * 64 + 64; r++)
                add_states(r, parts);
            named_wait(2 + group, 128);
        }
#pragma unroll
        for (int r = 0; r < 2; r++)
            if (row(r) < rows)
                take_row(r, min(parts, (int)FEW));
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
        float a = exp2_unit(*lse - top), b = exp2_unit(now - top), part = reciprocal_unit(a + b);
        *lse = top + log2_unit(a + b);
        return make_float2(a * part, now == -INFINITY ? 0 : b * part * reciprocal_unit(sum[r]));
    }

    /* Weights of a row: of what earlier passes have of it, and of `out`. */
    __device__ __forceinline__ float2 row_weights(int r, bool before) const
    {
        if (w.c.passes == 1)
            return make_float2(0, max[r] == -INFINITY ? 0 : reciprocal_unit(sum[r]));
        int in_warp = lane / 4 + 8 * r, t = token(in_warp);
        float lse = -INFINITY;
        if (before && t >= 0)
            lse = __uint_as_float(
                load_shared(sh.lse(slot.place(), group) + (16 * warp + in_warp) * 4));
        float2 weight = weights(r, &lse);
        if (lane % 4 == 0 && t >= 0)
            w.c.lse[(size_t)pair() * w.tokens + t] = lse;
        return weight;
    }

    /* The warp's rows, weighed, into shared memory; BEFORE: to what is there. Of each 16 columns as
     * four matrices of 8 x 8. */
    template <bool BEFORE>
    __device__ __forceinline__ void stage(uint32_t tile_at, const float2 (&weight)[2]) const
    {
        uint32_t first = staged(tile_at, lane % 16, lane / 16);
#pragma unroll
        for (int i = 0; i < C::D / 16; i++) {
            uint32_t at = first ^ 32 * i, x[4];
            if (BEFORE)
                load_matrices<false>(x, at);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float2 of = weight[j % 2];
                float2 o = make_float2(out[8 * i + 2 * j] * of.y, out[8 * i + 2 * j + 1] * of.y);
                if (BEFORE) {
                    float2 b = unpack2<T>(x[j]);
                    o.x = fmaf(b.x, of.x, o.x);
                    o.y = fmaf(b.y, of.x, o.y);
                }
                x[j] = pack2<T>(o.x, o.y);
            }
            store_matrices(at, x);
        }
    }

    __device__ __forceinline__ void stage_rows(uint32_t tile_at, bool before) const
    {
        const float2 weight[2] = {row_weights(0, before), row_weights(1, before)};
        if (before)
            stage<true>(tile_at, weight);
        else
            stage<false>(tile_at, weight);
    }

    /* From shared memory, 16 bytes at a time. */
    __device__ __forceinline__ void store(uint32_t tile_at) const
    {
        uint32_t pitch = w.heads * (C::ROW / 16);
        uint4 *to = reinterpret_cast<uint4 *>(w.out) + (uint32_t)word(ITEM_AT) + lane % 8;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int in_warp = 4 * i + lane / 8, t = token(in_warp);
            uint4 x = load_shared_16(staged(tile_at, in_warp, lane % 8));
            if (t >= 0)
                to[t * pitch] = x;
        }
    }

    __device__ __forceinline__ bool leads() const /* this warpgroup */
    {
        return threadIdx.x % 128 == 0;
    }

    /* Tells later phases of what this warpgroup wrote for items before this one. To wait until that
     * has arrived everywhere takes long, so where only the last phase asks for it, for some items at
     * a time; but always before this one waits for other blocks. */
    __device__ __forceinline__ void tell_done()
    {
        if (!leads() || w.s.phases == 1)
            return;
        uint32_t untold = load_shared(sh.untold(group, 0));
        bool last = pair() < 0;
        if (untold == (w.c.passes > 1 ? 1 : C::UNTOLD) ||
            (untold > 0 && (last || word(ITEM_PHASE) > 0))) {
            __threadfence();
            for (; untold > 0; untold--) {
                uint32_t at = load_shared(sh.untold(group, untold));
                asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(w.c.done + at)
                             : "memory");
            }
        }
        if (!last)
            store_shared(sh.untold(group, ++untold), pair() * w.s.phases + word(ITEM_PHASE));
        store_shared(sh.untold(group, 0), untold);
    }

    __device__ __forceinline__ void finish()
    {
        bool late = word(ITEM_PHASE) > 0, before = field(offsetof(vt_cuda_item, pass)) > 0;
        uint32_t tile_at = sh.q(slot.place(), group);
        /* All are through with the queries, and have written what they had of the item before. */
        named_wait(2 + group, 128);
        tell_done(); /* before waiting for other blocks */
        if (late) {
            barrier_wait(sh.k_full(tile.place()), tile.parity());
            barrier_wait(sh.v_full(tile.place()), tile.parity());
            tile_at = group ? sh.v(tile.place()) : sh.k(tile.place());
        }
        for (int r = 0; r < 2; r++)
            sum[r] = quad_sum(sum[r]);
        if (field(offsetof(vt_cuda_item, give)) >= 0) {
            give();
        } else {
            if (field(offsetof(vt_cuda_item, parts)) > 0)
                take();
            stage_rows(tile_at, before);
            store(tile_at);
        }
        __syncwarp();
        if (late)
            release();
    }

    /* The last block leaves the counters as they were. */
    __device__ __forceinline__ void end() const
    {
        uint32_t ended = 0;
        named_wait(1, 128 * C::GROUPS); /* all have told */
        if (threadIdx.x >= 32)
            return;
        if (lane == 0) {
            __threadfence();
            ended = atomicAdd(w.c.schedule + 1, 1);
        }
        if (__shfl_sync(0xffffffffu, ended, 0) != gridDim.x - 1)
            return;
        if (lane < 2)
            w.c.schedule[lane] = 0;
        for (int i = lane; w.s.phases > 1 && i < w.order.pairs * w.s.phases; i += 32)
            w.c.done[i] = 0;
    }

    __device__ __forceinline__ void run()
    {
        for (;;) {
            barrier_wait(sh.q_full(slot.place()), slot.parity());
            if (pair() < 0)
                break;
            softmax::start_sums();
            fresh = true;
            all_tiles();
            if (fresh)
                softmax::clear_out();
            finish();
            barrier_arrive(sh.q_free(slot.place()));
            slot.next();
        }
        named_wait(2 + group, 128);
        tell_done();
        end();
    }
};

#endif
#endif
