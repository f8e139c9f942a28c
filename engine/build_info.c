/* What this build can do, in one line: chosen among constants, so that nothing is kept. */
#include "engine/session.h"

#include <string.h>

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

#if VT_ONEDNN
#include <oneapi/dnnl/dnnl_version.h>
#define MATMUL "oneDNN " TEXT(DNNL_VERSION_MAJOR) "." TEXT(DNNL_VERSION_MINOR) " and built-in"
#else
#define MATMUL "built-in"
#endif

#if defined(__clang__)
#define COMPILER __VERSION__
#else
#define COMPILER "gcc " __VERSION__
#endif

#if VT_LIBJPEG
#define IMAGES "stb_image (PNG), libjpeg (JPEG)"
#else
#define IMAGES "stb_image"
#endif

#if VT_CUDA
#include <cuda_runtime_api.h>
#define GPU "CUDA " TEXT(CUDART_VERSION)
#else
#define GPU "no CUDA"
#endif

#define BUILD(isa) COMPILER "; CPU " isa "; matrix products " MATMUL "; images " IMAGES "; " GPU

const char *vitrun_build_info(void)
{
    const char *isa = vt_cpu_isa();
    if (!strcmp(isa, "avx512"))
        return BUILD("AVX-512");
    if (!strcmp(isa, "avx2"))
        return BUILD("AVX2");
    if (!strcmp(isa, "neon"))
        return BUILD("NEON");
    return BUILD("generic");
}
