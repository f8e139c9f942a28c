/* Which device and arithmetic the texts of an option mean. `auto` takes a GPU where there is a
 * usable one; a device that was asked for by name is never replaced by another. */
#include "engine/session.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

static int usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
    return 1;
}

typedef struct {
    bool automatic, cuda;
    int index; /* of the GPU */
} wish;

static int parse_device(const char *text, wish *w, vt_status *st)
{
    char *end;
    *w = (wish){.automatic = !text || !strcmp(text, "auto")};
    if (w->automatic || !strcmp(text, "cpu"))
        return 0;
    w->cuda = true;
    if (!strcmp(text, "cuda"))
        return 0;
    long index = strncmp(text, "cuda:", 5) != 0 || text[5] < '0' || text[5] > '9'
                     ? -1
                     : strtol(text + 5, &end, 10);
    if (index < 0 || *end || index > 1023)
        return vt_fail(st, VT_USAGE,
                       "device \"%.60s\" is unknown (expected auto, cpu, cuda or cuda:N)", text);
    w->index = (int)index;
    return 0;
}

typedef struct {
    const char *name;
    vt_dtype type;
    bool tf32, cpu;
} arithmetic;

static const arithmetic arithmetics[] = {{"fp32", VT_F32, false, true},
                                         {"tf32", VT_F32, true, false},
                                         {"bf16", VT_BF16, false, true},
                                         {"fp16", VT_F16, false, false}};

/* NULL with st set where the text means none. */
static const arithmetic *parse_dtype(const char *text, vt_status *st)
{
    for (size_t i = 0; i < sizeof arithmetics / sizeof *arithmetics; i++)
        if (!strcmp(arithmetics[i].name, text))
            return &arithmetics[i];
    vt_fail(st, VT_USAGE, "dtype \"%.60s\" is unknown (expected fp32, tf32, bf16 or fp16)", text);
    return NULL;
}

static vt_device *open_cuda(const wish *w, const arithmetic *a, int threads, vt_status *st)
{
#if VT_CUDA
    return vt_cuda_open(a->type, a->tf32, w->index, threads, st);
#else
    (void)w, (void)a, (void)threads;
    vt_fail(st, VT_MACHINE, "cuda: this build has no CUDA (use --device cpu)");
    return NULL;
#endif
}

static vt_device *open_cpu(const arithmetic *a, int threads, vt_status *st)
{
    if (a->cpu)
        return vt_cpu_open(a->type, threads, st);
    vt_fail(st, VT_USAGE, "dtype %s: the CPU cannot do it (expected fp32 or bf16)", a->name);
    return NULL;
}

vt_device *vitrun_device_open(const char *device, const char *dtype, int threads, vt_status *st)
{
    wish w;
    const arithmetic *on_gpu, *on_cpu;
    if (parse_device(device, &w, st) || !(on_gpu = parse_dtype(dtype ? dtype : "fp16", st)) ||
        !(on_cpu = parse_dtype(dtype ? dtype : "fp32", st)))
        return NULL;
    if (threads < 0 || threads > 1024) {
        vt_fail(st, VT_USAGE, "%d threads (expected 1 to 1024)", threads);
        return NULL;
    }
    threads = threads ? threads : usable_cores();
    if (vitrun_check_process(threads > 1, st))
        return NULL;
    vt_status why;
    vt_device *found =
        w.cuda || w.automatic ? open_cuda(&w, on_gpu, threads, w.cuda ? st : &why) : NULL;
    if (!found && !w.cuda)
        found = open_cpu(on_cpu, threads, st);
    if (found)
        vitrun_check_process(vitrun_binds(found), st);
    return found;
}

const char *vitrun_device_found(const char *device, const char *dtype, vitrun_error *err)
{
    vt_status st;
    vt_device *dev = vitrun_device_open(device, dtype, 0, &st);
    if (!dev) {
        vitrun_fail(err, &st);
        return NULL;
    }
    const char *name = dev->ops->name;
    dev->ops->close(dev);
    return name;
}
