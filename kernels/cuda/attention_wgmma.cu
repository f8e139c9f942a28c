/* Dense attention for compute capability 9.0: serves and launches the kernel of
 * attention_wgmma.cuh.
 *
 * q, k and v are read where the product left them, in qkv [images * tokens, 3 * heads * head_dim],
 * through maps of three dimensions (column, token, image): rows past an image's last token come as
 * zeros, never as the next image's. There is a block per multiprocessor, and block b takes the work
 * items b, b + blocks and so on in the order image, head, query tile: blocks that run together
 * share keys and values in the L2 cache.
 */
#include "kernels/cuda/attention_map.cuh"
#include "kernels/cuda/attention_wgmma.cuh"
#include "kernels/cuda/kernels.h"

template <typename C> static int run(const vt_cuda_attention *a, cudaStream_t stream)
{
    CUtensorMap map_q, map_kv;
    int e = map_rows(&map_q, a, 64);
    if (!e)
        e = map_rows(&map_kv, a, C::KEYS);
    if (!e)
        e = allow_shared(wgmma_attend<C>, C::SHARED);
    int blocks;
    if (!e)
        e = multiprocessors(&blocks);
    if (e)
        return e;
    const int rows = 64 * C::GROUPS;
    wgmma_work w = {};
    w.out = a->out;
    w.head = a->head;
    w.bits = a->bits;
    w.words = a->words;
    w.tokens = a->tokens;
    w.heads = a->heads;
    w.group_heads = a->group_heads;
    w.tiles = (a->tokens + rows - 1) / rows;
    w.items = w.tiles * a->group_heads * a->images;
    w.to_log2 = a->scale * 1.44269504f;
    return launch(wgmma_attend<C>, dim3(blocks < w.items ? blocks : w.items), dim3(C::THREADS),
                  C::SHARED, stream, map_q, map_kv, w);
}

template <typename T> static int run_type(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->bits ? run<wgmma_config<T, true>>(a, stream) : run<wgmma_config<T, false>>(a, stream);
}

extern "C" bool vt_cuda_attend_wgmma_serves(const vt_cuda_attention *a, int capability)
{
    if ((a->bits && (int64_t)a->tokens * a->words > INT32_MAX) || a->bias.table)
        return false;
    int64_t items = (int64_t)a->images * a->group_heads * ((a->tokens + 63) / 64);
    return capability == 90 && (a->type == VT_F16 || a->type == VT_BF16) && a->head_dim == 64 &&
           a->scale > 0 && a->tokens > 0 && items > 0 && items < INT32_MAX;
}

extern "C" int vt_cuda_attend_wgmma(const vt_cuda_attention *a, cudaStream_t stream)
{
    return a->type == VT_BF16 ? run_type<__nv_bfloat16>(a, stream) : run_type<__half>(a, stream);
}
