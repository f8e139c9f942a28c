/* Sparse attention for compute capability 9.0: serves and launches the kernel of
 * attention_columns.cuh over a layout of columns.h. Does not cut groups into items: columns.c does.
 */
#include "kernels/cuda/attention_columns_copies.cuh"
#include "kernels/cuda/attention_columns_rows.cuh"

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

/* A block has an item that it computes and one that it sends. Where about as many others come between
 * the passes of a head, blocks hardly ever wait, and what is read again is still in the cache. */
static vt_columns_order order_of(const vt_cuda_attention *a, const vt_cuda_columns *c, int blocks)
{
    int chunk = blocks / c->hosting.first[c->hosting.phases];
    return vt_columns_order_of(&c->hosting, c->passes, a->images * a->group_heads,
                               chunk > 0 ? chunk : 1, 2);
}

template <typename C>
static int run(const vt_cuda_attention *a, const vt_cuda_columns *c, cudaStream_t stream)
{
    int blocks, e = allow_shared(columns_attend<C>, C::SHARED);
    if (!e)
        e = multiprocessors(&blocks);
    if (e)
        return e;
    columns_work w = {};
    w.qkv = (const char *)a->qkv;
    w.out = (char *)a->out;
    w.head = a->head;
    w.c = *c;
    w.s = c->hosting;
    w.tokens = a->tokens;
    w.heads = a->heads;
    w.group_heads = a->group_heads;
    w.to_log2 = a->scale * 1.44269504f;
    int64_t items = (int64_t)a->images * a->group_heads * w.s.first[w.s.phases];
    if (items > INT32_MAX / 16)
        return cudaErrorInvalidValue;
    blocks *= C::BLOCKS;
    blocks = items < blocks ? (int)items : blocks;
    w.order = order_of(a, c, blocks);
    return launch(columns_attend<C>, dim3(blocks), dim3(C::THREADS), C::SHARED, stream, w);
}

template <typename T>
static int run_type(const vt_cuda_attention *a, const vt_cuda_columns *c, cudaStream_t stream)
{
    return c->rows == 64 ? run<columns_config<T, 1>>(a, c, stream)
                         : run<columns_config<T, 2>>(a, c, stream);
}

extern "C" bool vt_cuda_attend_columns_serves(const vt_cuda_attention *a, int capability)
{
    return capability == 90 && (a->type == VT_F16 || a->type == VT_BF16) && a->head_dim == 64 &&
           a->scale > 0;
}

extern "C" int vt_cuda_attend_columns(const vt_cuda_attention *a, const vt_cuda_columns *c,
                                      cudaStream_t stream)
{
    return a->type == VT_BF16 ? run_type<__nv_bfloat16>(a, c, stream)
                              : run_type<__half>(a, c, stream);
}
