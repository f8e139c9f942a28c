#!/usr/bin/env python3
"""Writes the inputs that fuzzing begins with, and dictionaries, from what the project has anyway.

    tests/fuzz/make_corpus.py FOLDER      FOLDER/TARGET/*, FOLDER/TARGET.dict

Pictures come from the golden packs, configurations from the golden models, words from the readers'
sources. Only what a fuzzer has found is stored (tests/fuzz/corpus/).
"""
import json
import pathlib
import re
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests/golden/models"


class Folder:
    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.count = 0

    def put(self, data):
        (self.path / f"{self.count:03}").write_bytes(data)
        self.count += 1


def pack(name):
    """Records of a pack: kind and the file itself."""
    data, at = (ROOT / "tests/golden" / name).read_bytes(), 0
    while at < len(data):
        end = data.index(b"\n", at)
        title, sizes = data[at:end].decode().rsplit(" | ", 1)
        sizes = [int(s) for s in sizes.split()]
        yield title.split()[0], data[end + 1 : end + 1 + sizes[0]]
        at = end + 1 + sum(sizes)


def words(*sources):
    """Texts in the sources that look like names, a JSON file's punctuation, numbers at the edge."""
    found = set()
    for source in sources:
        text = (ROOT / source).read_text()
        found.update(re.findall(r'"([A-Za-z0-9_.|+:<]{1,40})"', text))
    found.update(["true", "false", "null", "[]", "{}", "1e999", "-0", "1e-999", "\\u0000", "\\ud800"])
    found.update(["18446744073709551615", "9223372036854775808", "4294967296", "2147483648", "65536"])
    return sorted(found)


def dictionary(path, texts):
    with open(path, "w") as f:
        for t in texts:
            f.write('"' + t.replace("\\", "\\\\").replace('"', '\\"') + '"\n')


# ---- safetensors ----

def safetensors(header, size, raw=False):
    text = header if raw else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(i % 7 for i in range(size))


def tensor(kind, shape, begin, end):
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def make_safetensors(f):
    f.put(safetensors({}, 0))
    f.put(safetensors(b"{}   ", 0, raw=True))
    f.put(safetensors({"a": tensor("F32", [2, 3], 0, 24)}, 24))
    f.put(safetensors({"a": tensor("F16", [5], 0, 10), "b": tensor("BF16", [], 10, 12)}, 12))
    f.put(safetensors({"b": tensor("F64", [1], 3, 11), "a": tensor("U8", [3], 0, 3)}, 11))
    f.put(safetensors({"z": tensor("F32", [0, 4], 0, 0), "a": tensor("BOOL", [2], 0, 2)}, 2))
    f.put(safetensors({"__metadata__": {"format": "pt", "k": "v\u00e9\U0001f600"},
                       "a\u0000b": tensor("F4", [2], 0, 1)}, 1))
    f.put(safetensors({"\\\"\n": tensor("F32", [1] * 8, 0, 4)}, 4))
    for name in "vit", "dinov2_reg4":
        f.put((MODELS / f"{name}.safetensors").read_bytes()[:4000])


# ---- configurations ----

def metadata(name):
    data = (MODELS / f"{name}.safetensors").read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + n])["__metadata__"].get("vitrun.config", "{}")


def make_config(f):
    for i, name in enumerate(["vit", "dinov2_reg4", "beit", "clip", "dinov3", "sbb_reg4"]):
        f.put(bytes([i]) + metadata(name).encode() + b"\0" + b"\0")
        f.put(bytes([i]) + b"\0num_heads=2\nnorm_eps=1e-5\nmean=[0.5, 0.5, 0.5]\ncrop_pct=0.9\0")
        f.put(bytes([i | 64]) + b'{"architecture": "vit_tiny_patch16_224"}\0\0')
    f.put(b"\0" + json.dumps({"architecture": "vision_transformer", "num_classes": 10,
                              "label_names": list("abcdefghij"), "label_descriptions": {"a": "x"},
                              "model_args": {"img_size": 64, "patch_size": 8, "embed_dim": 32,
                                             "depth": 2, "num_heads": 2, "mlp_ratio": 2}}).encode()
          + b"\0global_pool=avg\0" + b"zero\none\ntwo\n" * 4)


def make_json(f):
    for path in sorted((ROOT / "samples/masks").glob("*.json"))[:4]:
        f.put(b"\1" + path.read_bytes())
    for text in ['[1, -0, 1.5, 1e3, -1E-3, 9223372036854775807, true, false, null, ""]', r'"\u00e9\ud83d\ude00\n\/"',
                 '{"a": {"b": [[], {}]}, "a ": "\u20ac"}', " \t\r\n0 ", "[[[[[[]]]]]]", '{"a": 1, "a": 2}']:
        for flags in range(4):
            f.put(bytes([flags]) + text.encode())


# ---- masks ----

EXPRESSIONS = [
    "axial_2d()", "dense", "0: axial_2d() | local_2d(distance=2)", "0,1: ~local_2d(distance=2, p=\"inf\")",
    "all: (swin(window_size=2, shift_size=1) & ~causal_1d())", "dilated_2d(k=2)",
    "local_1d(window_size=3)", "global_tokens(tokens=[0, 2])", "random(sparsity=0.5, seed=1)",
    "random_from_probability(probability={\"type\": \"local_2d_gaussian\", \"sigma\": 2}, sparsity=0.5)",
    "1-: horizontal_axial_2d(distance=2) | vertical_axial_2d()",
]


def make_masks(f):
    paths = sorted((ROOT / "samples/masks").glob("*.json")) + sorted((MODELS / "masks").glob("*.json"))
    for i, path in enumerate(paths):
        f.put(bytes([i % 8]) + path.read_bytes() + b"\0")
    for i, text in enumerate(EXPRESSIONS):
        f.put(bytes([i % 8]) + b"\0" + text.encode())
    types = re.findall(r"^\| (`[^|]*`) \| ([^|]*)", (ROOT / "engine/masks/README.md").read_text(), re.M)
    for i, (names, parameters) in enumerate(types):
        for name in re.findall(r"`(\w+)`", names):
            values = ", ".join(f"{p}=2" for p in re.findall(r"(\w+)(?:=|,|$| )", parameters)[:4])
            f.put(bytes([i % 8]) + b"\0" + f"{name}({values})".encode())


# ---- arrays ----

def npy(kind, shape, data, version=1, order="False"):
    text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}"
    start = 10 if version == 1 else 12
    text += " " * (-(start + len(text) + 1) % 64) + "\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + data


def make_npy(f):
    for kind, size in ("|b1", 1), ("|u1", 1), ("<i2", 2), ("<u4", 4), ("<i8", 8), ("<f2", 2), ("<f8", 8):
        f.put(b"\0" + npy(kind, "(4, 4)", bytes(i % 2 for i in range(16 * size))))
    f.put(b"\1" + npy("<f4", "(2, 5, 5)", bytes(200), version=2))
    f.put(b"\0" + npy("|b1", "(4, 4)", bytes(16), version=3))
    f.put(b"\2" + safetensors({"m": tensor("BOOL", [4, 4], 0, 16)}, 16))
    f.put(b"\0" + safetensors({"m": tensor("F32", [2, 5, 5], 0, 200)}, 200))
    f.put(b"\0" + next(data for kind, data in pack("image_decode.pack") if kind == "png"))


# ---- pictures ----

def make_images(f):
    for name in "image_decode.pack", "image_broken.pack":
        for _, data in pack(name):
            f.put(data)


# ---- command lines ----

def command(*arguments, **files):
    text = "\n".join(arguments).encode() + b"\n\n"
    for name, data in files.items():
        data = data.encode() if isinstance(data, str) else data
        text += b"@" + name.replace("__", ".").encode() + b"\n" + data + b"\n"
    return text


def make_cli(f):
    w = ("--weights", "m.safetensors")
    d = ("--data", "data", "--runs", "1")
    spec = '{"patterns": {"a": "axial_2d()", "n": "local_2d(distance=$d)"}, "parameters": {"d": [2, 3]},' \
           ' "layers": ["all", "0"], "batches": [2], "runs": 1}'
    for line in [
        (), ("--help",), ("--version",), ("info", "--list"), ("info", "--list", "--json"), ("mask", "--help"),
        (*w, "i.png"), (*w, "--json", "--logits", "i.png", "i.png"), (*w, "--batch", "2", "data"),
        ("--weights", "d.safetensors", "--features", "f.npy", "i.png"), ("--weights", "k.safetensors", "i.png"),
        (*w, "--features", "f.safetensors", "--intermediate", "0,1", "--norm", "--prefix-tokens", "i.png"),
        (*w, "--attention", "o", "--rollout", "--query", "3", "i.png"), (*w, "--profile", "i.png"),
        (*w, "--mask", "0: axial_2d()", "--kernel", "rows", "--density-threshold", "0.9", "i.png"),
        (*w, "--mask-config", "c.json", "--dispatch", "density", "i.png"),
        (*w, "--set", "num_heads=2", "--set", "crop_pct=1", "--img-size", "32x48", "i.png"),
        ("info", *w, "--batch", "1,8", "--json"), ("info", *w, "--mask-config", "c.json"),
        ("mask", "--grid", "4x4", "--prefix", "1", "--mask", "axial_2d()", "--png", "o", "--query", "2"),
        ("mask", *w, "--mask-config", "c.json", "--save", "s.safetensors", "--json"),
        ("check", *w, "--mask", "axial_2d()", "i.png"), ("bench", *w, "--runs", "1", "--json"),
        ("bench", "--attention", "2x65x16", "--mask", "axial_2d()", "--runs", "1"),
        ("eval", *w, "--data", "data", "--mask", "axial_2d()"), ("eval", *w, "--data", "data", "--json"),
        ("sensitivity", *w, *d, "--mask", "axial_2d()", "--out", "o", "--study", "both"),
        ("search", *w, *d, "--mask", "axial_2d()", "--mask", "local_2d(distance=2)", "--max-lost", "50"),
        ("calibrate", *w, "--data", "data", "--save", "s.safetensors", "--keep-keys", "4", "--per", "head"),
        ("calibrate", *w, "--data", "data", "--mask", "axial_2d()", "--json"),
        (*w, "--max-memory", "64M", "--device", "cpu", "--dtype", "bf16", "i.png"), (*w, "absent.png"),
    ]:
        f.put(command(*line))
    f.put(command("sweep", *w, "--data", "data", "--spec", "s.json", "--out", "o", s__json=spec))
    f.put(command("sweep", "--merge", "--out", "o"))
    f.put(command("eval", *w, "--data", "l.csv", l__csv="path,label\ni.png,3\ndata/0/a.png,0\n"))
    f.put(command(*w, "--labels", "l.txt", "i.png", l__txt="a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n"))
    f.put(command(*w, "--mask-config", "n.json", "i.png", n__json=(ROOT / "samples/masks/heads.json").read_text()))
    f.put(command(*w, "--config", "n.json", "i.png", n__json=metadata("vit")))
    f.put(command("info", "--weights", "w.safetensors", w__safetensors=safetensors(
        {"a": tensor("F32", [2, 3], 0, 24)}, 24)))
    f.put(command("mask", "--grid", "2x2", "--mask-config", "n.json",
                  n__json='{"patterns": {"f": {"type": "file", "path": "f.npy"}}, "layers": {"all": "f"}}',
                  f__npy=npy("|b1", "(4, 4)", bytes(16))))
    for i, (kind, data) in enumerate(pack("image_decode.pack")):
        if i % 10 == 0 and len(data) < 1000:
            f.put(command(*w, "z.png", "i.png", z__png=data))


def main():
    out = pathlib.Path(sys.argv[1])
    makers = {"safetensors": make_safetensors, "config": make_config, "json": make_json, "masks": make_masks, "npy": make_npy,
              "images": make_images, "images_stb": make_images, "cli": make_cli}
    sources = {
        "safetensors": ["weights_tools/st_header.c"],
        "config": ["weights_tools/timm_json.c", "weights_tools/timm_config.c", "weights_tools/timm_set.c"],
        "json": ["weights_tools/json_decode.c"],
        "masks": ["engine/masks/mask_config.c", "engine/masks/patterns.c", "engine/masks/mask_expr.c"],
        "npy": ["engine/masks/mask_file.c", "weights_tools/st_header.c"],
        "cli": ["engine/masks/patterns.c", "engine/experiments/points.c", "weights_tools/timm_json.c"],
    }
    for target, make in makers.items():
        make(Folder(out / target))
        if target in sources:
            dictionary(out / f"{target}.dict", words(*sources[target]))


if __name__ == "__main__":
    main()
