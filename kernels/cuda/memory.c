/* Memory of a CUDA device, and transfers that wait.
 *
 * cudaMalloc gives multiples of 2 MiB: hundreds of weights by themselves would waste a quarter. So
 * blocks are cut from chunks, first fit, at multiples of 256 bytes, and a chunk is given back with
 * its last block. reserve takes one chunk for all that is about to be asked for; what does not fit
 * into any gets a new one.
 */
#include "kernels/cuda/cuda.h"

#include <string.h>

enum {
    ALIGNMENT = 256,
    CHUNK = 2 << 20, /* bytes, where nothing was reserved */
};

struct vt_cuda_chunk {
    struct vt_cuda_chunk *next;
    char *base;
    size_t size, used; /* blocks lie in [0, used) */
    size_t live;       /* blocks not yet freed */
};

/* ---- chunks; the lock of memory is held ---- */

static vt_cuda_chunk *new_chunk(cuda_device *dev, size_t size, const char *what, vt_status *st)
{
    size_t available = 0, all;
    vt_cuda_chunk *c = vt_alloc(1, sizeof *c, what, st);
    int error = c ? (int)cudaMalloc((void **)&c->base, size) : 0;
    if (c && !error) {
        c->size = size;
        c->next = dev->chunks;
        return dev->chunks = c;
    }
    vt_free(c);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        cudaMemGetInfo(&available, &all);
        vt_fail(st, VT_MACHINE, "%s: out of memory for %s (needed %.6g MiB, free %.6g MiB)",
                dev->name, what, (double)size / 1048576, (double)available / 1048576);
    } else if (error) {
        vt_cuda_fail(&dev->base, error, what, st);
    }
    return NULL;
}

static void drop_chunk(cuda_device *dev, vt_cuda_chunk *c)
{
    vt_cuda_chunk **at = &dev->chunks;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    cudaFree(c->base);
    vt_free(c);
}

static vt_cuda_chunk *chunk_with(cuda_device *dev, size_t bytes, const char *what, vt_status *st)
{
    for (vt_cuda_chunk *c = dev->chunks; c; c = c->next)
        if (c->size - c->used >= bytes)
            return c;
    return new_chunk(dev, bytes > CHUNK / 2 ? bytes : CHUNK, what, st);
}

/* ---- blocks ---- */

void *vt_cuda_malloc(vt_device *device, size_t bytes, const char *what, vt_status *st)
{
    cuda_device *dev = (cuda_device *)device;
    void *p = NULL;
    if (bytes > SIZE_MAX - ALIGNMENT) {
        vt_fail(st, VT_MACHINE, "%s: out of memory for %s", dev->name, what);
        return NULL;
    }
    bytes = (bytes ? bytes + ALIGNMENT - 1 : ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    cudaSetDevice(dev->index);
    pthread_mutex_lock(&dev->memory_lock);
    vt_cuda_chunk *c = chunk_with(dev, bytes, what, st);
    if (c) {
        p = c->base + c->used;
        c->used += bytes;
        c->live++;
    }
    pthread_mutex_unlock(&dev->memory_lock);
    return p;
}

void vt_cuda_release(vt_device *device, void *p)
{
    cuda_device *dev = (cuda_device *)device;
    cudaSetDevice(dev->index);
    pthread_mutex_lock(&dev->memory_lock);
    vt_cuda_chunk *c = dev->chunks;
    while (c && ((char *)p < c->base || (char *)p >= c->base + c->size))
        c = c->next;
    if (c && --c->live == 0)
        drop_chunk(dev, c);
    pthread_mutex_unlock(&dev->memory_lock);
}

int vt_cuda_reserve(vt_device *device, size_t bytes, const char *what, vt_status *st)
{
    cuda_device *dev = (cuda_device *)device;
    cudaSetDevice(dev->index);
    pthread_mutex_lock(&dev->memory_lock);
    vt_cuda_chunk *c = new_chunk(dev, bytes, what, st);
    pthread_mutex_unlock(&dev->memory_lock);
    return c ? 0 : -1;
}

void vt_cuda_release_all(cuda_device *dev)
{
    while (dev->chunks)
        drop_chunk(dev, dev->chunks);
}

void *vt_cuda_alloc(vt_device *dev, size_t bytes, const char *what, vt_status *st)
{
    void *p = vt_cuda_malloc(dev, bytes, what, st);
    int error = p ? (int)cudaMemset(p, 0, bytes) : 0;
    if (p && !error)
        error = cudaStreamSynchronize(0);
    if (error) {
        vt_cuda_fail(dev, error, what, st);
        vt_cuda_release(dev, p);
        return NULL;
    }
    return p;
}

void *vt_cuda_host_alloc(vt_device *dev, size_t bytes, const char *what, vt_status *st)
{
    void *p = NULL;
    cudaSetDevice(((cuda_device *)dev)->index);
    int error = cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocDefault);
    if (error) {
        vt_cuda_fail(dev, error, what, st);
        return NULL;
    }
    memset(p, 0, bytes);
    return p;
}

void vt_cuda_host_free(vt_device *dev, void *p)
{
    cudaSetDevice(((cuda_device *)dev)->index);
    cudaFreeHost(p);
}

size_t vt_cuda_free_memory(vt_device *dev)
{
    size_t available = 0, all;
    cudaSetDevice(((cuda_device *)dev)->index);
    return cudaMemGetInfo(&available, &all) == cudaSuccess ? available : 0;
}

/* ---- transfers: between fp32 on the host and the matrix's type, through a buffer on the device
 *      where they differ ---- */

/* The lock of transfers is held. */
static int copy_through(cuda_device *dev, vt_mat on_device, float *host, bool up)
{
    size_t n = on_device.rows * (size_t)on_device.cols, part, step = VT_CUDA_STAGING / sizeof *host;
    char *at = on_device.p;
    vt_dtype type = on_device.type;
    bool same = type == VT_F32;
    int error = dev->staging || same ? 0 : (int)cudaMalloc(&dev->staging, VT_CUDA_STAGING);
    for (; n && !error; n -= part, host += part, at += part * vt_dtype_bytes(type)) {
        part = same || n < step ? n : step;
        void *near = same ? at : dev->staging;
        if (!up && !same)
            error = vt_cuda_cast(near, VT_F32, at, type, part, 0);
        if (!error)
            error = up ? (int)cudaMemcpy(near, host, part * sizeof *host, cudaMemcpyHostToDevice)
                       : (int)cudaMemcpy(host, near, part * sizeof *host, cudaMemcpyDeviceToHost);
        if (up && !same && !error)
            error = vt_cuda_cast(at, type, near, VT_F32, part, 0);
        if (!error)
            error = cudaStreamSynchronize(0);
    }
    return error;
}

static int transfer(vt_device *device, vt_mat on_device, float *host, bool up, vt_status *st)
{
    cuda_device *dev = (cuda_device *)device;
    cudaSetDevice(dev->index);
    pthread_mutex_lock(&dev->transfer_lock);
    int error = copy_through(dev, on_device, host, up);
    pthread_mutex_unlock(&dev->transfer_lock);
    return error ? vt_cuda_fail(device, error, up ? "upload" : "download", st) : 0;
}

int vt_cuda_upload(vt_device *dev, vt_mat to, const float *from, vt_status *st)
{
    return transfer(dev, to, (float *)from, true, st);
}

int vt_cuda_download(vt_device *dev, float *to, vt_mat from, vt_status *st)
{
    return transfer(dev, from, to, false, st);
}

/* ---- several arrays in one block ---- */

static size_t aligned(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

static int send(vt_device *dev, const vt_cuda_piece *pieces, int count, char *to, vt_status *st)
{
    int error = 0;
    for (int i = 0; i < count && !error; to += aligned(pieces[i].bytes), i++) {
        *pieces[i].at = to;
        if (pieces[i].bytes)
            error = cudaMemcpy(to, pieces[i].from, pieces[i].bytes, cudaMemcpyHostToDevice);
    }
    if (!error)
        error = cudaStreamSynchronize(0); /* other streams do not wait for this one */
    return error ? vt_cuda_fail(dev, error, "mask upload", st) : 0;
}

void *vt_cuda_pieces_load(vt_device *dev, const vt_cuda_piece *pieces, int count, size_t *bytes,
                          vt_status *st)
{
    *bytes = 0;
    for (int i = 0; i < count; i++)
        *bytes += aligned(pieces[i].bytes);
    void *block = vt_cuda_malloc(dev, *bytes, "mask", st);
    if (block && send(dev, pieces, count, block, st)) {
        vt_cuda_release(dev, block);
        block = NULL;
    }
    return block;
}
