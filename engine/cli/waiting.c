/* How OpenMP's threads wait for each other: asleep, not spinning. Where other programs want the
 * cores too, a thread that spins keeps the one it waits for from running: on a busy machine of two
 * cores the sample model took 2 to 7 times as long (three runs
 * beside OMP_WAIT_POLICY=active). Sleeping costs microseconds a region.
 *
 * The OpenMP runtime reads its environment when it is loaded, before main: hence a function that
 * the loader runs before any library's own. A user's settings are left alone.
 */
#include <stdlib.h>

#if defined(__has_feature)
#define CLANG_ASAN __has_feature(address_sanitizer)
#else
#define CLANG_ASAN 0
#endif

#if !defined(__SANITIZE_ADDRESS__) && !CLANG_ASAN /* its own start-up must come first */

static void wait_asleep(void)
{
    if (!getenv("GOMP_SPINCOUNT"))
        setenv("OMP_WAIT_POLICY", "passive", 0);
}

__attribute__((section(".preinit_array"),
               used)) static void (*before_libraries)(void) = wait_asleep;

#endif
