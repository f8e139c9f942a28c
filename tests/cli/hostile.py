#!/usr/bin/env python3
"""Broken and odd files through the program: every broken one is refused, every odd but valid one taken.

    tests/cli/hostile.py build/vitrun FOLDER      FOLDER: where the files may be written

Refused means: exit status 3, one line on standard error that names the file, nothing on standard
output. Any run takes at most SECONDS of processor time and MEMORY.
"""
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import zlib

SECONDS = 5
MEMORY = 1 << 30
REFUSED_AS_USAGE = 2 # what is missing is an option's business
ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests/golden/models"


class Suite:
    """Files, each with the command line that reads it and whether it must be taken."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.cases = []

    def add(self, name, data, command, taken):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        self.cases.append((path, [str(path) if a == "FILE" else a for a in command], taken))


# ---- JSON texts: classes of RFC 8259's rules; V stands where a value may stand ----

TAKEN = {
    "null": "null", "true": "true", "false": "false", "zero": "0", "minus_zero": "-0", "minus": "-1",
    "fraction": "0.5", "exponent": "1e3", "exponent_plus": "1E+3", "exponent_minus": "1e-3",
    "fraction_exponent": "-1.25e-2", "long_fraction": "0." + "3" * 60, "near_zero": "1e-300", "large": "1e300",
    "integer_63_bits": "9223372036854775807", "empty_text": '""', "blank_text": '" "',
    "escapes": r'"\" \\ \/ \b \f \n \r \t"', "unicode_escape": r'"\u00e9\u0041\u20AC"',
    "surrogate_pair": r'"\ud83d\ude00"', "utf8_2": '"\u00e9"', "utf8_3": '"\u20ac"', "utf8_4": '"\U0001f600"',
    "noncharacter": '"\ufffe\uffff"', "delete": '"\x7f"', "line_separator": '"\u2028"', "long_text": '"' + "x" * 5000 + '"',
    "empty_array": "[]", "array": "[1, 2, 3]", "array_spaces": "[ \t\r\n ]", "mixed": '[null, 1, "1", {}]',
    "nested_arrays": "[" * 100 + "]" * 100, "empty_object": "{}", "object": '{"a": 1, "b": {"c": []}}',
    "empty_key": '{"": 0}', "long_key": '{"' + "k" * 3000 + '": 0}', "escaped_key": r'{"\u0061\n": 0}',
    "similar_keys": '{"a": 0, "A": 0, "a ": 0}', "spaces": ' \t\r\n1 \t\r\n', "many": "[" + "0," * 5000 + "0]",
}
REFUSED = {
    "nothing": "", "word": "nul", "word_case": "True", "word_long": "nulll", "undefined": "undefined", "nan": "NaN",
    "infinity": "Infinity", "minus_infinity": "-Infinity", "hex": "0x1", "octal": "010", "leading_zeros": "00",
    "minus_zeros": "-01", "plus": "+1", "minus_alone": "-", "minus_minus": "--1", "point_alone": ".5", "point_last": "1.",
    "point_exponent": "1.e3", "exponent_alone": "1e", "exponent_sign": "1e+", "exponent_fraction": "1e0.5",
    "two_points": "1.2.3", "number_letter": "1a", "number_space": "1 000", "arabic_digit": "\u0661", "fullwidth": "\uff11",
    "single_quotes": "'a'", "no_quotes": "abc", "open_text": '"abc', "text_newline": '"a\nb"', "text_tab": '"a\tb"',
    "text_control": '"a\x01b"', "text_nul": '"a\x00b"', "escape_unknown": r'"\x41"', "escape_octal": r'"\101"',
    "escape_space": r'"\ "', "escape_last": '"\\', "unicode_short": r'"\u12"', "unicode_letters": r'"\u12G4"',
    "unicode_capital": r'"\U00000041"', "surrogate_high": r'"\ud800"', "surrogate_low": r'"\udc00"',
    "surrogate_swapped": r'"\udc00\ud800"', "surrogate_half": r'"\ud800\u0041"', "array_open": "[1, 2", "array_comma": "[1,]",
    "array_first_comma": "[,1]", "array_commas": "[1,,2]", "array_no_comma": "[1 2]", "array_colon": "[1:2]",
    "array_semicolon": "[1;2]", "array_close": "1]", "array_brace": "[1}", "array_only_comma": "[,]",
    "object_open": '{"a": 1', "object_comma": '{"a": 1,}', "object_first_comma": '{,"a": 1}', "object_no_colon": '{"a" 1}',
    "object_colons": '{"a":: 1}', "object_no_value": '{"a":}', "object_no_key": "{:1}", "object_key_number": "{1: 1}",
    "object_key_word": "{a: 1}", "object_key_quotes": "{'a': 1}", "object_key_null": "{null: 1}", "object_equals": '{"a" = 1}',
    "object_bracket": '{"a": 1]', "object_comma_value": '{"a", 1}', "key_twice": '{"a": 1, "a": 2}',
    "key_twice_escaped": r'{"a": 1, "\u0061": 2}', "comment_line": "1 // c\n", "comment_block": "/* c */ 1", "comment_hash": "1 # c\n",
    "form_feed": "1\f", "vertical_tab": "1\v", "no_break_space": "1\u00a0", "bom_inside": "\ufeff1", "two_values": "1 2",
    "value_comma": "1,", "nested_open": "[" * 100000, "nested_objects": '{"a":' * 100000, "nested_close": "[" * 50 + "]" * 49,
}
# RFC 8259 leaves these to the reader: refused here, because the value would be lost, or changed.
CHOICES = {
    "nul_escape": r'"\u0000"', "too_large": "1e400", "too_small": "1e-400", "integer_64_bits": "9223372036854775808",
    "too_deep": "[" * 3000 + "]" * 3000,
}
BAD_BYTES = {
    "utf8_continuation": b"\x80", "utf8_cut": b"\xe2\x82", "utf8_overlong": b"\xc0\xaf", "utf8_overlong_3": b"\xe0\x80\xaf",
    "utf8_surrogate": b"\xed\xa0\x80", "utf8_beyond": b"\xf4\x90\x80\x80", "utf8_5": b"\xf8\x88\x80\x80\x80", "latin_1": b"\xe9",
    "ff": b"\xff", "nul": b"\x00",
}


def json_texts(suite, folder, whole, command, underflow=False):
    """`whole` is a document with V at a place whose value does not count. Where it is not looked at, a
    number that is too small for a double is taken for zero (underflow)."""
    def put(name, value, taken):
        if isinstance(value, str):
            value = value.encode()
        suite.add(f"{folder}/{name}.json", whole.encode().replace(b"V", value), command, taken)

    for name, value in TAKEN.items():
        put(name, value, True)
    for name, value in {**REFUSED, **CHOICES}.items():
        put(name, value, underflow and name == "too_small")
    for name, value in BAD_BYTES.items():
        put(name, b'"a' + value + b'b"', False)
        put(name + "_bare", value, False)
    document = whole.replace("V", "0").encode()
    for name, data in {
        "bom": b"\xef\xbb\xbf" + document, "utf16_le": document.decode().encode("utf-16-le"),
        "utf16_be": document.decode().encode("utf-16-be"), "behind": document + b" {}", "behind_nul": document + b"\0",
        "behind_word": document + b"x", "empty": b"", "blank": b" \n", "only_nul": b"\0", "array": b"[]", "text": b'"a"',
        "number": b"1", "null": b"null", "twice": document * 2, "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\3",
    }.items():
        suite.add(f"{folder}/whole_{name}.json", data, command, False)
    suite.add(f"{folder}/whole_spaces.json", b" \t\r\n" + document + b" \t\r\n", command, True)


# ---- safetensors: as weights and as masks ----

def container(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def read_container(path):
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def entry(kind, shape, begin, end):
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def rearranged(header, data, order, align=1):
    """The same tensors, their bytes in another order."""
    new, out = {"__metadata__": header["__metadata__"]}, b""
    for name in order:
        begin, end = header[name]["data_offsets"]
        new[name] = {**header[name], "data_offsets": [len(out), len(out) + end - begin]}
        out += data[begin:end]
    return new, out


def weights(suite):
    command = ["--json", "--weights", "FILE", str(MODELS / "image.png")]
    header, data = read_container(MODELS / "vit.safetensors")
    names = [n for n in header if n != "__metadata__"]
    for i, order in enumerate([sorted(names), sorted(names, reverse=True), random.Random(1).sample(names, len(names))]):
        suite.add(f"weights/order_{i}.safetensors", container(*rearranged(header, data, order)), command, True)
    text = json.dumps(header).encode()
    for n in range(8): # values at odd addresses
        suite.add(f"weights/pad_{n}.safetensors", container(text + b" " * n, data), command, True)
    suite.add("weights/spaces.safetensors", container(json.dumps(header, indent=7).encode(), data), command, True)
    suite.add("weights/newline.safetensors", container(text + b"\r\n\t", data), command, True)
    escaped = "".join(f"\\u{ord(c):04x}" for c in "norm.weight")
    suite.add("weights/escaped.safetensors", container(text.replace(b'"norm.weight"', f'"{escaped}"'.encode()), data), command,
              True)
    more = {**header, "__metadata__": {**header["__metadata__"], "": "", "\u00e9\U0001f600": "\n", "long": "x" * 100000}}
    suite.add("weights/metadata.safetensors", container(more, data), command, True)

    def refuse(name, *parts, **more):
        suite.add(f"weights/{name}.safetensors", container(*parts, **more), command, False)

    n = len(data)
    for name in names[:6]: # one tensor missing, of another shape, type, rank, twice, or not finite
        rest = {k: v for k, v in header.items() if k != name}
        begin, end = header[name]["data_offsets"]
        safe = name.replace(".", "_")
        order = [k for k in names if k != name]
        refuse(f"missing_{safe}", *rearranged(rest, data, order))
        refuse(f"renamed_{safe}", {**rest, name + "x": header[name]}, data)
        refuse(f"rank_{safe}", {**rest, name: {**header[name], "shape": header[name]["shape"] + [1]}}, data)
        refuse(f"type_{safe}", {**rest, name: {**header[name], "dtype": "I32"}}, data)
        refuse(f"unknown_type_{safe}", {**rest, name: {**header[name], "dtype": "F128"}}, data)
        refuse(f"flat_{safe}", {**rest, name: {**header[name], "shape": [(end - begin) // 4]}} if len(
            header[name]["shape"]) > 1 else {**rest, name: {**header[name], "shape": [1, (end - begin) // 4, 1]}}, data)
        for what, value in ("nan", float("nan")), ("inf", float("inf")), ("minus_inf", float("-inf")):
            refuse(f"{what}_{safe}", header, data[: end - 4] + struct.pack("<f", value) + data[end:])
        refuse(f"offsets_{safe}", {**rest, name: {**header[name], "data_offsets": [end, begin]}}, data)
        refuse(f"shifted_{safe}", {**rest, name: {**header[name], "data_offsets": [begin + 1, end + 1]}}, data)
        refuse(f"overlap_{safe}", {**header, "extra": header[name]}, data)
        twice = text[:-1] + b", " + json.dumps(name).encode() + b": " + json.dumps(header[name]).encode() + b"}"
        refuse(f"twice_{safe}", twice, data)
    huge = 1 << 62
    for name, value in {
        "extra": entry("F32", [1], n, n + 4), "rank_9": entry("F32", [1] * 9, n, n + 4),
        "overflow": entry("F32", [huge, 8], n, n + 4), "overflow_offsets": entry("F32", [1], huge, huge + 4),
        "negative": entry("F32", [-1], n, n + 4), "fraction": entry("F32", [1.0], n, n + 4), "text": entry("F32", ["1"], n, n + 4),
        "true": entry("F32", [True], n, n + 4), "no_shape": {"dtype": "F32", "data_offsets": [n, n + 4]}, "null": None, "number": 1,
        "array": ["F32", [1], [n, n + 4]], "dtype_object": entry({"F32": None}, [1], n, n + 4), "lower": entry("f32", [1], n, n + 4),
        "more": {**entry("F32", [1], n, n + 4), "x": 0}, "offsets_1": {**entry("F32", [1], n, n + 4), "data_offsets": [n]},
        "offsets_3": {**entry("F32", [1], n, n + 4), "data_offsets": [n, n + 4, n + 4]}, "half_bytes": entry("F4", [1], n, n + 1),
    }.items():
        refuse(f"entry_{name}", {**header, "x": value}, data + bytes(4))
    for name, meta in {"array": [], "number": 1, "null": None, "of_number": {"a": 1}, "of_null": {"a": None}, "nested": {"a": {}}}.items():
        refuse(f"metadata_{name}", {**header, "__metadata__": meta}, data)
    for length in 0, 1, len(text) - 1, len(text) + 1, len(text) + n, len(text) + n + 1, 100_000_001, 1 << 31, 1 << 32, 1 << 63, \
            (1 << 64) - 8, (1 << 64) - 1:
        refuse(f"length_{length}", text, data, length=length)
    for name, parts in {"short": (text, data[:-1]), "long": (text, data + b"\0"), "no_data": (text,), "nul": (text + b"\0", data),
                        "second": (text + text, data), "space_first": (b" " + text, data), "bom": (b"\xef\xbb\xbf" + text, data),
                        "array": (b"[]",), "empty": (b"{}",), "utf16": (json.dumps(header).encode("utf-16-le"), data)}.items():
        suite.add(f"weights/{name}.safetensors", container(*parts), command, REFUSED_AS_USAGE if name == "empty" else False)
    foreign = {"zip": b"PK\3\4" + bytes(60), "pickle": b"\x80\2ccollections\n", "gguf": b"GGUF\3\0\0\0" + bytes(60),
               "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(60), "npy": b"\x93NUMPY\1\0", "html": b"<!DOCTYPE html>", "gzip": b"\x1f\x8b\x08\0",
               "lfs": b"version https://git-lfs.github.com/spec/v1\n", "png": (MODELS / "image.png").read_bytes(), "empty": b"",
               "zeros": bytes(4096), "ones": b"\xff" * 4096, "text": b"hello, world\n"}
    for name, data in foreign.items():
        suite.add(f"weights/foreign_{name}.safetensors", data, command, False)


def header_texts(suite):
    """Every JSON class where a value of the header stands: none may be taken for a tensor."""
    command = ["info", "--weights", "FILE"]
    for name, value in {**TAKEN, **REFUSED, **CHOICES}.items():
        suite.add(f"header/{name}.safetensors", container(b'{"a":' + value.encode() + b"}"), command, False)


# ---- masks ----

MASK = ["mask", "--grid", "2x2", "--mask-config", "FILE"]


def mask_files(suite):
    def add(name, data, taken, tensor=None):
        key = f', "tensor": "{tensor}"' if tensor else ""
        document = f'{{"patterns": {{"f": {{"type": "file", "path": "{name}"{key}}}}}, "layers": {{"all": "f"}}}}'
        (suite.folder / "maskfiles").mkdir(exist_ok=True)
        (suite.folder / "maskfiles" / name).write_bytes(data)
        suite.add(f"maskfiles/{name}.json", document, MASK, taken)

    def npy(text, data, version=1, size=None):
        text = text.encode() if isinstance(text, str) else text
        text += b" " * (-(11 + len(text)) % 64) + b"\n"
        size = len(text) if size is None else size
        return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + text + data

    values = bytes([1, 0, 1, 1] * 4)
    good = "{'descr': '|b1', 'fortran_order': False, 'shape': (4, 4), }"
    for name, text in {"order": "{'shape': (4, 4), 'descr': '|b1', 'fortran_order': False}",
                       "double_quotes": good.replace("'", '"'), "no_spaces": good.replace(" ", ""), "plain": good}.items():
        add(f"{name}.npy", npy(text, values), True)
    add("version_2.npy", npy(good, values, 2), True)
    add("version_3.npy", npy(good, values, 3), True)
    for kind, size in ("|u1", 1), ("|i1", 1), ("<u2", 2), ("<i4", 4), ("<u8", 8), ("<f2", 2), ("<f4", 4), ("<f8", 8):
        add(f"type_{kind[1:]}.npy", npy(good.replace("|b1", kind), b"".join(bytes([v]) + bytes(size - 1) for v in values)), True)
    broken = {
        "big_endian": good.replace("|b1", ">u2"), "complex": good.replace("|b1", "<c8"), "object": good.replace("|b1", "|O"),
        "record": good.replace("'|b1'", "[('a', '<f4')]"), "fortran": good.replace("False", "True"), "rank_1": good.replace("(4, 4)", "(16,)"),
        "rank_0": good.replace("(4, 4)", "()"), "rank_3": good.replace("(4, 4)", "(1, 4, 4, 1)"), "other": good.replace("(4, 4)", "(2, 8)"),
        "negative": good.replace("(4, 4)", "(-4, -4)"), "huge": good.replace("(4, 4)", "(4294967296, 4294967296)"),
        "huge_2": good.replace("(4, 4)", "(99999999999999999999, 4)"), "no_shape": "{'descr': '|b1', 'fortran_order': False}",
        "twice": good.replace("{", "{'descr': '|b1', "), "list": good.replace("(4, 4)", "[4, 4]"), "open": good[:-1], "code": "exit()",
        "float": good.replace("(4, 4)", "(4.0, 4)"), "empty": "", "nul": good.replace("descr", "de\0scr"), "more": good + " x",
    }
    for name, text in broken.items():
        add(f"bad_{name}.npy", npy(text, values), False)
    add("bad_short.npy", npy(good, values[:-1]), False)
    add("bad_long.npy", npy(good, values + b"\0"), False)
    add("bad_version_4.npy", npy(good, values, 4), False)
    add("bad_version_0.npy", npy(good, values, 0), False)
    for size in 0, 1, 65535, 60:
        add(f"bad_size_{size}.npy", npy(good, values, size=size), False)
    for size in 1 << 31, (1 << 32) - 1, 100000:
        add(f"bad_size_{size}.npy", npy(good, values, 2, size=size), False)
    for value, taken in (float("nan"), False), (float("inf"), False), (float("-inf"), False), (-0.0, True), (1e-45, True):
        add(f"value_{value}.npy", npy(good.replace("|b1", "<f4"), struct.pack("<f", value) * 16), taken)
    add("bool.safetensors", container({"m": entry("BOOL", [4, 4], 0, 16)}, values), True)
    add("named.safetensors", container({"z": entry("F32", [0], 0, 0), "m": entry("U8", [4, 4], 0, 16)}, values), True, "m")
    add("two.safetensors", container({"z": entry("F32", [0], 0, 0), "m": entry("U8", [4, 4], 0, 16)}, values), False)
    add("absent.safetensors", container({"m": entry("U8", [4, 4], 0, 16)}, values), False, "n")
    add("i32.safetensors", container({"m": entry("I32", [2, 2], 0, 16)}, values), False)
    add("nothing.safetensors", container({}), False)
    add("text.txt", b"1 0 1 1\n" * 4, False)
    for name, data in pictures():
        add(f"picture_{name}", data, False)


MASK_TAKEN = {
    "empty": "{}", "version": '{"version": 1}', "no_layers": '{"layers": {}}', "all": '{"layers": {"all": "dense"}}',
    "list": '{"layers": {"0,2,4-5": "axial_2d()"}}', "open": '{"layers": {"3-": "axial_2d()"}}', "unused": '{"patterns": {"a": {"type": "axial_2d"}}}',
    "operators": '{"layers": {"0": "~(axial_2d() | ~dense) & local_2d(distance=1.5)"}}', "spaces": '{"layers": {"0": "  axial_2d ( ) "}}',
    "odd_name": '{"patterns": {"a_1": "axial_2d()"}, "layers": {"0": "a_1"}}', "chain": json.dumps({"patterns": {
        f"p{i}": f"p{i - 1} | axial_2d()" if i else "dense" for i in range(30)}, "layers": {"0": "p29"}}),
    "threshold_0": '{"density_threshold": 0, "layers": {}}', "threshold_1": '{"density_threshold": 1.0, "layers": {}}',
    "prefix": '{"prefix": "none", "layers": {"0": {"mask": "axial_2d()", "prefix": "rows", "kernel": "rows"}}}',
    "heads": '{"layers": {"0": {"heads": {"0": "axial_2d()", "1-": "dense"}}}}',
}
MASK_REFUSED = {
    "version_0": '{"version": 0}', "version_2": '{"version": 2}', "version_text": '{"version": "1"}', "typo": '{"layrs": {}}',
    "layers_array": '{"layers": []}', "layers_null": '{"layers": null}', "layer_number": '{"layers": {"0": 1}}', "layer_twice": '{"layers": {"0": "dense", "0-1": "dense"}}',
    "layer_negative": '{"layers": {"-1": "dense"}}', "layer_huge": '{"layers": {"99999999999999999999": "dense"}}', "layer_65536": '{"layers": {"0-999999": "dense"}}',
    "layer_backwards": '{"layers": {"3-1": "dense"}}', "layer_empty": '{"layers": {"": "dense"}}', "layer_comma": '{"layers": {"0,": "dense"}}',
    "layer_word": '{"layers": {"first": "dense"}}', "layer_space": '{"layers": {"0 1": "dense"}}', "expression_empty": '{"layers": {"0": ""}}',
    "expression_open": '{"layers": {"0": "axial_2d("}}', "expression_close": '{"layers": {"0": "axial_2d())"}}', "expression_operator": '{"layers": {"0": "axial_2d() |"}}',
    "expression_two": '{"layers": {"0": "axial_2d() dense"}}', "expression_unknown": '{"layers": {"0": "axail_2d()"}}', "expression_xor": '{"layers": {"0": "dense ^ dense"}}',
    "expression_deep": json.dumps({"layers": {"0": "(" * 20000 + "dense" + ")" * 20000}}), "expression_not": json.dumps({"layers": {"0": "~" * 100000 + "dense"}}),
    "expression_long": json.dumps({"layers": {"0": " | ".join(["axial_2d()"] * 100000) + " |"}}), "argument_unknown": '{"layers": {"0": "axial_2d(x=1)"}}',
    "argument_twice": '{"layers": {"0": "local_2d(distance=1, distance=2)"}}', "argument_missing": '{"layers": {"0": "local_2d()"}}',
    "argument_negative": '{"layers": {"0": "local_2d(distance=-1)"}}', "argument_nan": '{"layers": {"0": "local_2d(distance=NaN)"}}',
    "argument_text": '{"layers": {"0": "local_2d(distance=\\"2\\")"}}', "argument_huge": '{"layers": {"0": "swin(window_size=99999999999999999999)"}}',
    "argument_2_31": '{"layers": {"0": "swin(window_size=2147483648)"}}', "argument_place": '{"layers": {"0": "local_2d(2)"}}',
    "pattern_itself": '{"patterns": {"a": "a"}, "layers": {"0": "a"}}', "pattern_circle": '{"patterns": {"a": "b", "b": "~a"}, "layers": {"0": "a"}}',
    "pattern_number": '{"patterns": {"a": 1}}', "pattern_no_type": '{"patterns": {"a": {}}}', "pattern_type": '{"patterns": {"a": {"type": "axail"}}}',
    "pattern_reserved": '{"patterns": {"dense": "axial_2d()"}}', "pattern_key": '{"patterns": {"a": {"type": "axial_2d", "x": 1}}}',
    "file_absent": '{"patterns": {"a": {"type": "file", "path": "absent"}}, "layers": {"0": "a"}}', "file_folder": '{"patterns": {"a": {"type": "file", "path": "."}}, "layers": {"0": "a"}}',
    "file_device": '{"patterns": {"a": {"type": "file", "path": "/dev/zero"}}, "layers": {"0": "a"}}', "file_number": '{"patterns": {"a": {"type": "file", "path": 1}}, "layers": {"0": "a"}}',
    "threshold_2": '{"density_threshold": 2}', "threshold_text": '{"density_threshold": "0.3"}', "prefix_word": '{"prefix": "some"}', "kernel_word": '{"layers": {"0": {"mask": "dense", "kernel": "fast"}}}',
    "mask_and_heads": '{"layers": {"0": {"mask": "dense", "heads": {}}}}', "layer_nothing": '{"layers": {"0": {}}}', "heads_array": '{"layers": {"0": {"heads": []}}}',
    "heads_twice": '{"layers": {"0": {"heads": {"0": "dense", "0-1": "dense"}}}}', "sparsity_2": '{"layers": {"0": "random(sparsity=2, seed=1)"}}',
    "sigma_0": '{"layers": {"0": "random_from_probability(sparsity=0.5, probability={\\"type\\": \\"local_2d_gaussian\\", \\"sigma\\": 0})"}}',
    "seed_negative": '{"layers": {"0": "random(sparsity=0.5, seed=-1)"}}', "measured_array": '{"measured": []}',
}


def mask_configurations(suite):
    for name, text in MASK_TAKEN.items():
        suite.add(f"masks/{name}.json", text, MASK, True)
    for name, text in MASK_REFUSED.items():
        suite.add(f"masks/{name}.json", text, MASK, False)
    json_texts(suite, "masks_json", '{"measured": {"a": V}, "layers": {}}', MASK)


# ---- timm's configuration ----

def configurations(suite):
    command = ["info", "--weights", str(MODELS / "vit.safetensors"), "--config", "FILE"]
    header, _ = read_container(MODELS / "vit.safetensors")
    good = json.loads(header["__metadata__"]["vitrun.config"])
    suite.add("config/whole.json", json.dumps(good), command, True)
    suite.add("config/unknown.json", json.dumps({**good, "notes": {"a": [1]}}), command, True)
    for key, values in {
        "embed_dim": [0, -1, 33, 1e9, 1 << 40, "32", None, [], True, 32.5], "depth": [0, 3, -1, 1 << 31, "2", None],
        "num_heads": [0, 3, -2, 1 << 31, "2", None, 64], "patch_size": [0, 7, -8, 1 << 31, [], [8], [8, 8, 8], "8", None],
        "img_size": [0, -64, 63, 1 << 31, [64], [64, 0], "64", 1e308], "mlp_ratio": [0, -1, 1e300, "4", 3, []],
        "norm_eps": [-1, 1e308, "1e-6", []], "norm_layer": ["batchnorm", 1, []], "act": ["tanh", 1], "num_classes": [-1, 11, 1 << 40, "10"],
        "global_pool": ["none", 1, []], "in_chans": [0, 2, -1, 1 << 31], "class_token": ["yes", 2, []], "reg_tokens": [-1, 5, 1 << 31, "0"],
        "rope_type": ["spiral", 1], "block_fn": ["MysteryBlock", 1], "attn_layer": ["strange", 1], "rel_pos_type": ["odd", 1],
    }.items():
        for i, value in enumerate(values):
            changed = {**good, "model_args": {**good["model_args"], key: value}}
            suite.add(f"config/{key}_{i}.json", json.dumps(changed), command, None)
    for key, values in {
        "mean": [[], [0.5], [0.5, 0.5, "0.5"], 1, [1e400, 0, 0], [0.5] * 4], "std": [[0, 0, 0], [-1, 1, 1], [], "1"], "crop_pct": [0, -1, 1e9, "0.9", []],
        "interpolation": ["nearest", 1], "crop_mode": ["edge", 1], "input_size": [[3], [3, 64], [3, 0, 0], [4, 64, 64], "64", [3, 1 << 31, 1 << 31]],
    }.items():
        for i, value in enumerate(values):
            changed = {**good, "pretrained_cfg": {**good["pretrained_cfg"], key: value}}
            suite.add(f"config/{key}_{i}.json", json.dumps(changed).replace("Infinity", "1e400"), command, None)
    for i, value in enumerate([1, None, "vit_unknown", "", "x" * 10000, [], {}, "resnet50"]):
        suite.add(f"config/architecture_{i}.json", json.dumps({**good, "architecture": value}), command, None if value is None else False)
    for i, value in enumerate([[], ["a"], [1] * 10, "a", {"0": "a"}, None]):
        suite.add(f"config/label_names_{i}.json", json.dumps({**good, "label_names": value}), command, None)
    json_texts(suite, "config_json", json.dumps({**good, "notes": 7}).replace('"notes": 7', '"notes": V'), command, underflow=True)


# ---- pictures, labels, lists, studies ----

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pictures():
    data, at = (ROOT / "tests/golden/image_broken.pack").read_bytes(), 0
    while at < len(data):
        end = data.index(b"\n", at)
        title, sizes = data[at:end].decode().rsplit(" | ", 1)
        sizes = [int(s) for s in sizes.split()]
        yield title.split()[1], data[end + 1 : end + 1 + sizes[0]]
        at = end + 1 + sum(sizes)


def pictures_and_lists(suite):
    vit = str(MODELS / "vit.safetensors")
    run = ["--weights", vit, "--topk", "1", "FILE"]
    for i, (name, data) in enumerate(pictures()):
        suite.add(f"pictures/{i:03}_{name}", data, run, False)
    data, at = (ROOT / "tests/golden/image_decode.pack").read_bytes(), 0
    while at < len(data):
        end = data.index(b"\n", at)
        title, sizes = data[at:end].decode().rsplit(" | ", 1)
        sizes = [int(s) for s in sizes.split()]
        name = title.split()[1]
        suite.add(f"pictures/{name}", data[end + 1 : end + 1 + sizes[0]], run, None if name == "cmyk_without_adobe" else True)
        at = end + 1 + sum(sizes)
    image = str(MODELS / "image.png")
    labels = ["--weights", vit, "--labels", "FILE", image]
    ten = "\n".join("abcdefghij")
    for name, text, taken in [
        ("plain", ten + "\n", True), ("no_newline", ten, True), ("crlf", ten.replace("\n", "\r\n"), True), ("unicode", ten.replace("a", "\u00e9"), True),
        ("nine", ten[:-2] + "\n", False), ("eleven", ten + "\nk\n", False), ("empty", "", False), ("nul", ten.replace("c", "\0"), None),
        ("latin", ten.encode().replace(b"c", b"\xe9"), None), ("blank", ten.replace("c", ""), None), ("long", ten.replace("c", "x" * 100000), None),
    ]:
        suite.add(f"labels/{name}.txt", text, labels, taken)
    listed = ["eval", "--weights", vit, "--data", "FILE"]
    for name, text, taken in [
        ("plain", f"path,label\n{image},3\n", True), ("no_head", f"{image},3\n", True), ("quoted", f'"{image}",3\n', True), ("empty", "", False),
        ("head_only", "path,label\n", False), ("no_label", f"{image}\n", False), ("label_10", f"{image},10\n", False), ("label_negative", f"{image},-1\n", False),
        ("label_word", f"{image},cat\n", False), ("label_huge", f"{image},99999999999999999999\n", False), ("absent", "absent.png,3\n", False),
        ("quote_open", f'"{image},3\n', False), ("binary", bytes(range(256)) * 4, False),
    ]:
        suite.add(f"lists/{name}.csv", text, listed, taken)
    spec = ["sweep", "--weights", vit, "--data", str(suite.folder / "lists/plain.csv"), "--spec", "FILE", "--out", str(suite.folder / "out")]
    for name, text in {
        "empty": "", "array": "[]", "typo": '{"patern": {}}', "pattern": '{"patterns": {"a": "axail()"}}', "parameter": '{"patterns": {"a": "local_2d(distance=$d)"}}',
        "layers": '{"patterns": {"a": "axial_2d()"}, "layers": ["7"]}', "batches": '{"batches": [0]}', "batches_text": '{"batches": ["1"]}', "runs": '{"runs": -1}',
        "img_sizes": '{"img_sizes": [-1]}', "parameter_of_itself": '{"patterns": {"a": "local_2d(distance=2, p=$d)"}, "parameters": {"d": ["$d"]}}',
        "many": json.dumps({"patterns": {"a": "local_2d(distance=$d)"}, "parameters": {"d": list(range(1, 200))},
                            "density_thresholds": [i / 300 for i in range(300)]}), "twice": '{"runs": 1, "runs": 1}',
    }.items():
        suite.add(f"studies/{name}.json", text, spec, False)


# ---- running ----

def run(program, arguments):
    """Exit status, standard output, standard error, seconds, bytes."""
    with open("/dev/null") as null:
        p = subprocess.Popen([program, *arguments], stdin=null, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = p.communicate(timeout=120)
    return p.returncode, out, err


def judge(path, taken, status, out, err):
    """What is wrong with the outcome, or None."""
    if taken is REFUSED_AS_USAGE:
        taken, status = False, 3 if status == 2 else -1
    if status not in (0, 3) or (taken is True and status != 0) or (taken is False and status != 3):
        return f"exit status {status}"
    if status == 0:
        return None
    lines = err.decode("utf-8", "replace").rstrip("\n").split("\n")
    if out:
        return "something on standard output"
    if len(lines) != (2 if path.name == "absent.csv" else 1) or not lines[0].startswith("vitrun: "):
        return f"{len(lines)} lines on standard error"
    return None if len(lines[0]) < 560 else "a line of more than 560 characters"


def limited(program, arguments):
    before = os.times()
    answer = run(program, arguments)
    after = os.times()
    return answer, after.children_user + after.children_system - before.children_user - before.children_system


def main():
    import resource
    program, folder = sys.argv[1:]
    suite = Suite(folder)
    for make in weights, header_texts, mask_files, mask_configurations, configurations, pictures_and_lists:
        make(suite)
    bad, worst, taken_count = 0, 0.0, 0
    for path, arguments, taken in suite.cases:
        (status, out, err), seconds = limited(program, arguments)
        why = judge(path, taken, status, out, err)
        if not why and seconds > SECONDS:
            why = f"{seconds:.1f} s"
        worst = max(worst, seconds)
        taken_count += status == 0
        if why:
            bad += 1
            print(f"not ok: {path.relative_to(folder)}: {why}: {' '.join(arguments)}\n  {out[:200]!r}\n  {err[:600]!r}")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    if memory > MEMORY and not os.environ.get("ASAN_OPTIONS"):
        bad += 1
        print(f"not ok: a run took {memory >> 20} MiB")
    print(f"{len(suite.cases)} files: {taken_count} taken, {len(suite.cases) - taken_count} refused; at most {worst:.2f} s "
          f"of processor time and {memory >> 20} MiB a run")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
