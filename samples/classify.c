/* Names the likeliest class of a picture, through the library:
 *
 *     cc classify.c -o classify $(pkg-config --cflags --libs vitrun)
 *     ./classify vit.safetensors cat.png
 */
#include <stdio.h>
#include <stdlib.h>
#include <vitrun.h>

static void or_end(int good, const vitrun_error *err)
{
    if (good)
        return;
    fprintf(stderr, "classify: %s\n", err->message);
    exit((int)err->code);
}

int main(int argc, char **argv)
{
    vitrun_error err = {VITRUN_USAGE, "usage: classify WEIGHTS IMAGE"};
    or_end(argc == 3, &err);
    vitrun_options options;
    vitrun_options_init(&options);
    options.weights = argv[1];
    vitrun_model *model = vitrun_open(&options, &err);
    or_end(model != NULL, &err);
    vitrun_context *context = vitrun_context_open(model, 1, &err);
    or_end(context != NULL, &err);

    vitrun_image image;
    or_end(!vitrun_image_load(&image, argv[2], &err), &err);
    or_end(!vitrun_preprocess(model, &image, vitrun_context_input(context), &err), &err);
    vitrun_image_free(&image);

    int outputs = vitrun_info_get(model)->outputs, best = 0;
    float *logits = malloc((size_t)outputs * sizeof *logits);
    or_end(logits && !vitrun_forward(context, 1, &(vitrun_outputs){.logits = logits}, &err), &err);
    for (int i = 1; i < outputs; i++)
        best = logits[i] > logits[best] ? i : best;
    const char *label = vitrun_label(model, best);
    printf("%d %s %.4f\n", best, label ? label : "", logits[best]);

    free(logits);
    vitrun_context_close(context);
    vitrun_close(model);
}
