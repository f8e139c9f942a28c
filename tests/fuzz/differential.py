#!/usr/bin/env python3
"""Compares the safetensors reader with an independent one on generated and mutated files.

    tests/fuzz/differential.py build/fuzz/answer_safetensors [--files 20000] [--seed 1]

Both must accept or refuse each file, and find the same tensors in it. A difference prints the file
in hexadecimal and ends with status 1. Where Python has the reference implementation (safetensors),
it is asked, too: it must accept what the reader accepts, and refuse what it refuses, but for
EXCEPTIONS.
"""
import argparse
import collections
import json
import random
import re
import struct
import subprocess
import sys

import safetensors_oracle as oracle

try:
    from safetensors import SafetensorError, deserialize
except ImportError:
    deserialize = None

# What the reference implementation takes and the reader refuses on purpose, by the oracle's reason.
EXCEPTIONS = {
    "a key twice": "it keeps the last one",
    "rank": "it has no limit on the rank",
    "fields": "it skips unknown fields and takes an entry written as an array",
    "type": "it takes {\"F32\": null}",
    "metadata": "it takes null",
    "does not begin with {": "it skips white space before the object",
}

KINDS = list(oracle.BITS)
EDGES = ["0", "1", "-1", "-0", "00", "01", "1.0", "1e0", "1E2", "4294967296", "9223372036854775808",
         "18446744073709551615", "18446744073709551616", "1" * 30, "\"1\"", "null", "true", "[]", "{}", "1e999",
         "NaN", "Infinity", "0x10", "+1", ".5", "1.", "''"]
NAMES = ["a", "weight", "blocks.0.attn.qkv.weight", "", " ", "\\u0061", "\\ud83d\\ude00", "\\u0000", "\u00e9", "\\n",
         "__metadata__", "\\\"", "\\\\", "\\/", "/etc/passwd", "%s%n", "x" * 300, "\U0001f600", "\\u00e9", "\x7f"]
BROKEN_TEXTS = [b"\\ud800", b"\\udc00\\ud800", b"\\u12", b"\\x41", b"\t", b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80",
                b"\xf4\x90\x80\x80", b"\xe2\x82", b"\n", b"\\", b"\xef\xbb\xbf"]
PIECES = [b",", b",,", b"]", b"}", b"{", b"[", b":", b"\"", b"//x", b"/**/", b" ", b"\r\n\t", b"\x00", b"\x0b", b"\xc2\xa0",
          b"\xef\xbb\xbf", b"null", b"\"a\":1", b"\"dtype\":\"F32\",", b"\"x\":[],", b"\"__metadata__\":null,"]


class Generator:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def space(self):
        return self.r.choice(["", "", "", "", " ", "\n", "\t \r\n"])

    def tensors(self):
        """(name, type, shape, begin, end): they fill the data in some order."""
        r, at, out = self.r, 0, []
        names = r.sample(NAMES, r.randrange(min(7, len(NAMES)))) if r.random() < 0.3 else [
            f"t{i}" for i in range(r.randrange(7))]
        for name in names:
            kind = r.choice(KINDS if r.random() < 0.5 else ["F32", "F16", "BF16"])
            shape = [r.choice([0, 1, 1, 2, 2, 3, 4, 8]) for _ in range(r.choice([0, 1, 1, 2, 2, 3, 4, 8, 9]))]
            bits = oracle.BITS[kind]
            for d in shape:
                bits *= d
            if bits % 8 and r.random() < 0.9:
                shape, bits = [4], 4 * oracle.BITS[kind]
            end = at + (bits + 7) // 8
            out.append((name, kind, shape, at, end))
            at = end
        r.shuffle(out)
        return out, at

    def entry(self, t):
        r, s = self.r, self.space
        name, kind, shape, begin, end = t
        fields = [f'"dtype"{s()}:{s()}"{kind}"', f'"shape":{s()}[{s()}{(s() + "," + s()).join(map(str, shape))}]',
                  f'"data_offsets":[{begin},{s()}{end}{s()}]']
        if r.random() < 0.3:
            r.shuffle(fields)
        return f'"{name}"{s()}:{s()}{{{s()}{("," + s()).join(fields)}}}'

    def valid(self):
        r = self.r
        tensors, size = self.tensors()
        parts = [self.entry(t) for t in tensors]
        if r.random() < 0.3 and not any(t[0] == "__metadata__" for t in tensors):
            meta = {f"k{i}": "v" * r.randrange(4) for i in range(r.randrange(3))}
            meta["format"] = r.choice(["pt", "np", "", "\u00e9"])
            parts.insert(r.randrange(len(parts) + 1), f'"__metadata__":{json.dumps(meta)}')
        text = "{" + self.space() + ("," + self.space()).join(parts) + "}" + " " * r.choice([0, 0, 0, 1, 7])
        return text.encode(), size

    def change_text(self, text):
        """One change of the header."""
        r = self.r
        at = r.randrange(len(text) + 1)
        numbers = list(re.finditer(rb"\d+", text))
        way = r.randrange(9)
        if way <= 1 and numbers:
            m = r.choice(numbers)
            old = int(m[0])
            new = r.choice([str(old + 1), str(max(old - 1, 0)), str(old * 2), r.choice(EDGES)])
            return text[: m.start()] + new.encode() + text[m.end() :]
        if way == 2:
            return text[:at] + r.choice(PIECES) + text[at:]
        if way == 3:
            return text[:at] + text[at + r.choice([1, 1, 2, 5]) :]
        if way == 4 and text:
            at = r.randrange(len(text))
            return text[:at] + bytes([text[at] ^ 1 << r.randrange(8)]) + text[at + 1 :]
        if way == 5:
            quotes = [m.end() for m in re.finditer(rb'"', text)]
            at = r.choice(quotes) if quotes else 0
            return text[:at] + r.choice(BROKEN_TEXTS) + text[at:]
        if way == 6: # part of it twice
            entries = list(re.finditer(rb'"[^"]*"\s*:\s*(\{[^{}]*\}|"[^"]*"|\[[^][]*\])', text))
            if entries:
                m = r.choice(entries)
                return text[: m.end()] + b"," + m[0] + text[m.end() :]
        if way == 7: # another value in its place
            values = list(re.finditer(rb'(?<=:)\s*("[^"]*"|\[[^][]*\])', text))
            if values:
                m = r.choice(values)
                other = r.choice([*EDGES, '"F32"', '{"F32":null}', "[1,2]", "[0]", "[0,4,4]", "[[0,4]]", '["F32",[1],[0,4]]',
                                  '"f32"', '"F33"', "[" * 40 + "]" * 40])
                return text[: m.start()] + other.encode() + text[m.end() :]
        start, end = sorted((r.randrange(len(text) + 1), at))
        return text[:start] + text[start:end].upper() + text[end:]

    def file(self):
        r = self.r
        text, size = self.valid()
        way = r.randrange(16)
        for _ in range(r.choice([1, 1, 2]) if way >= 6 else 0):
            text = self.change_text(text)
        length = len(text)
        data = b"\x01" * size
        if way == 1:
            length = r.choice([length + 1, length - 1, 0, 1, length + size, length + size + 1, 100_000_001, 1 << 63,
                               (1 << 64) - 1, (1 << 64) - 8, r.randrange(1 << 64)]) % (1 << 64)
        elif way == 2:
            data = r.choice([data[:-1], data + b"\0", data + bytes(8), data[: r.randrange(size + 1)]])
        elif way == 3 and r.random() < 0.3:
            text = r.choice([b" ", b"\n", b"\xef\xbb\xbf", b"\0"]) + text
            length = len(text)
        whole = struct.pack("<Q", length) + text + data
        return whole[: r.randrange(len(whole) + 1)] if way == 4 and r.random() < 0.3 else whole


# ---- the three answers ----

def by_oracle(data):
    """(metadata "format", tensors), or None; and why it refuses."""
    try:
        meta, tensors = oracle.read(data)
    except oracle.Refused as e:
        return None, str(e)
    return (meta.get("format"), tensors), ""


def from_line(line):
    """The reader's answer in the oracle's form."""
    if line.startswith("refused "):
        return None
    head, *rest = line.split(" ")[1:]
    tensors = []
    for t in rest:
        name, kind, shape, begin, end = t.split(":")
        tensors.append((bytes.fromhex(name).decode(), kind, tuple(int(d) for d in shape.split("x") if d), int(begin),
                        int(end)))
    return None if head == "-" else bytes.fromhex(head).decode(), tensors


def by_reference(data):
    try:
        return {name for name, _ in deserialize(data)}
    except SafetensorError:
        return None


def same(a, b):
    """Tensors of no bytes may stand in any order at one place."""
    if a is None or b is None:
        return a is b
    return a[0] == b[0] and sorted(a[1]) == sorted(b[1])


# ---- the stream ----

def answers(program, files):
    """A generator of lines, one a file; an empty file flushes a batch."""
    batch = b"".join(struct.pack("<I", len(f)) + f for f in files) + struct.pack("<I", 0)
    program.stdin.write(batch)
    program.stdin.flush()
    lines = [program.stdout.readline().decode("utf-8", "replace").rstrip("\n") for _ in range(len(files) + 1)]
    return lines[:-1]


def differs(what, data, *said):
    print(what, data.hex(), repr(data[8:300]), *said, sep="\n  ")
    sys.exit(1)


def compare(data, line, counts):
    ours = from_line(line)
    theirs, why = by_oracle(data)
    counts["refused" if ours is None else "accepted"] += 1
    if not same(ours, theirs):
        differs("the reader and the oracle differ", data, line, theirs or why)
    if deserialize is None:
        return
    names = by_reference(data)
    if ours is not None and names != {t[0] for t in ours[1]}:
        differs("the reference implementation does not take what the reader takes", data, line, names)
    if ours is None and names is not None:
        if why not in EXCEPTIONS:
            differs("the reference implementation takes what the reader refuses", data, line, names)
        counts[f"exception: {why} ({EXCEPTIONS[why]})"] += 1


def main():
    a = argparse.ArgumentParser()
    a.add_argument("program")
    a.add_argument("--files", type=int, default=20000)
    a.add_argument("--seed", type=int, default=1)
    a = a.parse_args()
    generator, counts = Generator(a.seed), collections.Counter()
    program = subprocess.Popen([a.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    done = 0
    while done < a.files:
        files = [generator.file() for _ in range(min(200, a.files - done))]
        for data, line in zip(files, answers(program, files)):
            compare(data, line, counts)
        done += len(files)
    program.stdin.close()
    if program.wait() != 0:
        sys.exit("the program failed")
    if min(counts["accepted"], counts["refused"]) < a.files // 5:
        sys.exit(f"the files say too little: {dict(counts)}")
    print(f"ok differential: {done} files, {counts['accepted']} accepted, {counts['refused']} refused, "
          f"{'with' if deserialize else 'without'} the reference implementation")
    for name, count in sorted(counts.items()):
        if name.startswith("exception"):
            print(f"  {count:7} {name}")


if __name__ == "__main__":
    main()
