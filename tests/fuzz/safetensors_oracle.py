"""What a safetensors file holds, by the format's rules, for comparison with the reader in C.

Written from the specification, on Python's own JSON reader; shares no code and no table with the
reader. read(bytes) returns (metadata, tensors) or raises Refused; tensors are (name, type, shape,
begin, end), sorted by their bytes, which count from the start of the file.

Where the specification leaves a choice, this is the reader's documented one: no white space before
the object, none but JSON's behind it, no further fields, no key twice, at most 8 dimensions,
metadata of strings only.
"""
import json
import re
import struct

MOST_HEADER = 100_000_000
MOST_RANK = 8
U64 = 1 << 64
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}


class Refused(Exception):
    pass


def need(holds, why):
    if not holds:
        raise Refused(why)


class Literal(str):
    """A number as it was written."""


def pairs_once(pairs):
    keys = [k for k, _ in pairs]
    need(len(keys) == len(set(keys)), "a key twice")
    return dict(pairs)


def no_constant(name):
    raise Refused(name)


def check_texts(value):
    """Lone surrogates, which \\u escapes can make, are no text."""
    if isinstance(value, dict):
        for k, v in value.items():
            check_texts(k)
            check_texts(v)
    elif isinstance(value, list):
        for v in value:
            check_texts(v)
    elif isinstance(value, str):
        need(not re.search("[\ud800-\udfff]", value), "half a surrogate pair")


def parse(text):
    """The object, its numbers as Literal."""
    try:
        text = text.decode("utf-8")
    except UnicodeDecodeError as e:
        raise Refused(e) from e
    need(text.startswith("{"), "does not begin with {")
    try:
        value = json.loads(text, object_pairs_hook=pairs_once, parse_int=Literal, parse_float=Literal,
                           parse_constant=no_constant)
    except (ValueError, RecursionError) as e:
        raise Refused(e) from e
    check_texts(value)
    return value


def u64(value):
    need(isinstance(value, Literal) and re.fullmatch("0|[1-9][0-9]*", value), f"{value!r}: no integer")
    value = int(value)
    need(value < U64, "over 64 bits")
    return value


def integers(value):
    need(isinstance(value, list), "no list")
    return [u64(v) for v in value]


def entry(name, value):
    need(isinstance(value, dict) and set(value) == {"dtype", "shape", "data_offsets"}, "fields")
    kind = value["dtype"]
    need(isinstance(kind, str) and not isinstance(kind, Literal) and kind in BITS, "type")
    shape, offsets = integers(value["shape"]), integers(value["data_offsets"])
    need(len(shape) <= MOST_RANK, "rank")
    need(len(offsets) == 2, "offsets")
    bits = 1
    for d in [*shape, BITS[kind]]:
        bits *= d
        need(bits < U64, "overflow")
    need(bits % 8 == 0, "bits do not fill bytes")
    begin, end = offsets
    need(begin <= end and end - begin == bits // 8, "offsets are not the shape's")
    return name, kind, tuple(shape), begin, end


def metadata(value):
    need(isinstance(value, dict), "metadata")
    for v in value.values():
        need(isinstance(v, str) and not isinstance(v, Literal), "metadata of other than texts")
    return value


def read(data):
    need(len(data) >= 8, "short")
    (n,) = struct.unpack("<Q", data[:8])
    need(2 <= n <= MOST_HEADER and n <= len(data) - 8, "header length")
    header = parse(data[8 : 8 + n])
    meta = metadata(header.pop("__metadata__")) if "__metadata__" in header else {}
    tensors = sorted((entry(k, v) for k, v in header.items()), key=lambda t: (t[3], t[4]))
    at = 0
    for t in tensors:
        need(t[3] == at, "gap or overlap")
        at = t[4]
    need(at == len(data) - 8 - n, "bytes missing or too many")
    return meta, [(name, kind, shape, 8 + n + begin, 8 + n + end) for name, kind, shape, begin, end in tensors]
