/* timm's configuration: config.json, --set texts and a labels file, on a model of a few families.
 *
 *   byte 0: which model | JSON, NUL | KEY=VALUE lines, NUL | labels
 */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights_tools/safetensors.h"
#include "weights_tools/timm_config.h"

const double fuzz_seconds = 1;

enum { MODELS = 6 };
static char path[MODELS][256];

/* The models' headers do not change; they are read once. */
static const st_reader *model(int i)
{
    static const char *const name[MODELS] = {"vit",  "dinov2_reg4", "beit",
                                             "clip", "dinov3",      "sbb_reg4"};
    static st_reader *reader[MODELS];
    const char *folder = getenv("MODELS");
    snprintf(path[i], sizeof path[i], "%s/%s.safetensors", folder ? folder : "tests/golden/models",
             name[i]);
    vt_status st = {0};
    if (!reader[i])
        reader[i] = st_open(path[i], &st);
    fuzz_require(reader[i], st.text);
    return reader[i];
}

void fuzz_one(const uint8_t *data, size_t size)
{
    if (size == 0)
        return;
    int which = data[0] % MODELS;
    const st_reader *reader = model(which);
    fuzz_parts parts;
    const char *set[8];
    fuzz_split(&parts, 3, data + 1, size - 1);
    timm_options o = {.set = set};
    o.sets = fuzz_lines(parts.text[1], set, 8);
    if (parts.size[0] > 0)
        o.config = fuzz_file(0, (uint8_t *)parts.text[0], parts.size[0]);
    if (parts.size[2] > 0)
        o.labels = fuzz_file(1, (uint8_t *)parts.text[2], parts.size[2]);
    if (data[0] & 64)
        o.img_h = 28, o.img_w = 42;
    timm_config c;
    vt_status st = {0};
    if (timm_config_load(&c, path[which], reader, &o, &st) == 0) {
        char text[200];
        timm_parts(&c.vit, text, sizeof text);
        for (int i = 0; i < c.facts; i++)
            fuzz_require(memchr(c.fact[i].value, 0, sizeof c.fact[i].value), "a fact without end");
    } else {
        fuzz_require(st.code != VT_OK && st.text[0], "refused without a word");
    }
    timm_config_free(&c);
    fuzz_parts_free(&parts);
}
