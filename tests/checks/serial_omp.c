/* OpenMP of one thread, for builds without it (config=msan): MemorySanitizer would take what
 * OpenMP's library writes, which is not instrumented, for uninitialised. */
#include <omp.h>

int omp_get_thread_num(void)
{
    return 0;
}

int omp_get_max_threads(void)
{
    return 1;
}

void omp_set_num_threads(int threads)
{
    (void)threads;
}
