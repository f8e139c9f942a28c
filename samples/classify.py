#!/usr/bin/env python3
"""Names the likeliest classes of a picture, through the library, with nothing but Python:

    samples/classify.py vit.safetensors cat.png

Finds libvitrun.so where the dynamic linker does, or by VITRUN_LIBRARY=path.
"""
import ctypes as c
import os
import sys


class Error(c.Structure):
    _fields_ = [("code", c.c_int), ("message", c.c_char * 512)]


class Options(c.Structure):  # vitrun_options, in vitrun.h's order
    _fields_ = [("size", c.c_size_t), ("weights", c.c_char_p), ("config", c.c_char_p),
                ("arch", c.c_char_p), ("set", c.POINTER(c.c_char_p)), ("set_count", c.c_int),
                ("image_height", c.c_int), ("image_width", c.c_int), ("mask_config", c.c_char_p),
                ("masks", c.POINTER(c.c_char_p)), ("mask_count", c.c_int),
                ("density_threshold", c.c_double), ("dispatch", c.c_int), ("kernel", c.c_char_p),
                ("device", c.c_char_p), ("dtype", c.c_char_p), ("threads", c.c_int),
                ("batch", c.c_int), ("labels", c.c_char_p), ("max_memory", c.c_uint64),
                ("intermediates", c.c_char_p), ("intermediate_norm", c.c_int),
                ("tokens", c.c_int), ("progress", c.c_void_p), ("progress_user", c.c_void_p)]


class Info(c.Structure):  # the beginning of vitrun_info
    _fields_ = [("size", c.c_size_t), ("architecture", c.c_char_p)] + [
        (name, c.c_int) for name in "layers heads head_dim width hidden tokens prefix_tokens "
        "grid_h grid_w image_height image_width channels classes outputs".split()]


class Image(c.Structure):
    _fields_ = [("width", c.c_int), ("height", c.c_int), ("rgb", c.c_void_p)]


class Outputs(c.Structure):
    _fields_ = [(name, c.POINTER(c.c_float))
                for name in ("logits", "features", "tokens", "intermediates")]


FUNCTIONS = {  # name: result, arguments but for the last, which is a vitrun_error
    "vitrun_open": (c.c_void_p, c.POINTER(Options)),
    "vitrun_context_open": (c.c_void_p, c.c_void_p, c.c_int),
    "vitrun_image_load": (c.c_int, c.POINTER(Image), c.c_char_p),
    "vitrun_preprocess": (c.c_int, c.c_void_p, c.POINTER(Image), c.c_void_p),
    "vitrun_forward": (c.c_int, c.c_void_p, c.c_int, c.POINTER(Outputs)),
}


class Vitrun:
    """The library, its failures as exceptions."""

    def __init__(self, path):
        self.lib = c.CDLL(path)
        for name, (result, *arguments) in FUNCTIONS.items():
            function = getattr(self.lib, name)
            function.restype, function.argtypes = result, arguments + [c.POINTER(Error)]
        self.lib.vitrun_info_get.restype = c.POINTER(Info)
        self.lib.vitrun_context_input.restype = c.c_void_p
        self.lib.vitrun_label.restype = c.c_char_p

    def __call__(self, name, *arguments):
        error = Error()
        result = getattr(self.lib, name)(*arguments, c.byref(error))
        if result is None or (FUNCTIONS[name][0] is c.c_int and result != 0):
            raise RuntimeError(error.message.decode(errors="replace"))
        return result


def classify(vitrun, weights, picture, top=5):
    lib, options, image = vitrun.lib, Options(), Image()
    lib.vitrun_options_init(c.byref(options))
    if options.size != c.sizeof(options):
        raise RuntimeError("this program was written for another vitrun.h")
    options.weights = os.fsencode(weights)
    model = vitrun("vitrun_open", c.byref(options))
    context = vitrun("vitrun_context_open", model, 1)
    vitrun("vitrun_image_load", c.byref(image), os.fsencode(picture))
    vitrun("vitrun_preprocess", model, c.byref(image),
           lib.vitrun_context_input(c.c_void_p(context)))
    lib.vitrun_image_free(c.byref(image))
    logits = (c.c_float * lib.vitrun_info_get(c.c_void_p(model)).contents.outputs)()
    vitrun("vitrun_forward", context, 1, Outputs(logits=logits))
    best = sorted(range(len(logits)), key=lambda i: -logits[i])[:top]
    result = [(i, (lib.vitrun_label(c.c_void_p(model), i) or b"").decode(), logits[i])
              for i in best]
    lib.vitrun_context_close(c.c_void_p(context))
    lib.vitrun_close(c.c_void_p(model))
    return result


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: classify.py WEIGHTS IMAGE")
    try:
        engine = Vitrun(os.environ.get("VITRUN_LIBRARY", "libvitrun.so"))
        for index, label, logit in classify(engine, *sys.argv[1:]):
            print(index, label, f"{logit:.4f}")
    except (OSError, RuntimeError) as problem:
        sys.exit(f"classify.py: {problem}")
