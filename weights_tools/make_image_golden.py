#!/usr/bin/env python3
"""Writes tests/golden/image_*.pack: what Pillow and timm make of pictures, for tests/engine/image/.

    python weights_tools/make_image_golden.py [tests/golden]

A pack is a sequence of records: one line "NAME | size size ...\n" and then that many blobs. Pictures
that are only input (resize, preprocess) are not stored but made by the same generator in C
(tests/support_pack.c). Results above LIMIT bytes are stored as their 64-bit FNV-1a hash.
"""
import io
import struct
import sys
import zlib

import numpy as np
import PIL
from PIL import Image

LIMIT = 4000


def fnv1a(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return struct.pack("<Q", h)


class Pack:
    def __init__(self):
        self.data = b""

    def add(self, name, *blobs):
        self.data += f"{name} | {' '.join(str(len(b)) for b in blobs)}\n".encode()
        self.data += b"".join(blobs)

    def write(self, path):
        with open(path, "wb") as f:
            f.write(self.data)
        print(path, len(self.data), "bytes")


def result(array):
    data = np.ascontiguousarray(array).tobytes()
    return data if len(data) <= LIMIT else fnv1a(data)


def picture(width, height, kind, seed):
    """noise: random bytes; hard: random 0 and 255, so that cubic overshoot must be clipped."""
    x, out = seed, bytearray()
    for _ in range(width * height * 3):
        x = (x * 1664525 + 1013904223) & 0xFFFFFFFF
        out.append(x >> 24 if kind == "noise" else 255 * (x >> 31))
    return np.frombuffer(bytes(out), np.uint8).reshape(height, width, 3)


def smooth(width, height, channels):
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 110 * np.sin(x / (3.0 + c) + c) * np.cos(y / (4.0 + c)) for c in range(channels)]
    return np.stack(waves, -1).round().astype(np.uint8)


# ---- PNG files ----

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2)]


def chunk(kind, data=b"", crc=None):
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def ihdr(width, height, depth, color, interlace=0, compression=0, filtering=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, compression,
                                      filtering, interlace))


def paeth(a, b, c):
    p = a + b - c
    return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]


def filtered(kind, row, above, step):
    out = bytearray([kind])
    for i, v in enumerate(row):
        a = row[i - step] if i >= step else 0
        b = above[i] if above else 0
        c = above[i - step] if above and i >= step else 0
        out.append((v - [0, a, b, (a + b) // 2, paeth(a, b, c)][kind]) & 255)
    return bytes(out)


def packed_row(samples, depth):
    if depth == 16:
        return samples.astype(">u2").tobytes()
    if depth == 8:
        return samples.astype(np.uint8).tobytes()
    bits = "".join(format(int(s), f"0{depth}b") for s in samples.ravel())
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def raw_rows(samples, depth, interlace, filters):
    """samples [h, w, channels]; filters: the filter of row i is filters[i % len]."""
    step = max(1, samples.shape[2] * depth // 8)
    out, n = b"", 0
    for x0, y0, dx, dy in ADAM7 if interlace else [(0, 0, 1, 1)]:
        part, above = samples[y0::dy, x0::dx], None
        if part.shape[1] == 0:
            continue
        for line in part:
            row = packed_row(line, depth)
            out += filtered(filters[n % len(filters)], row, above, step)
            above, n = row, n + 1
    return out


def deflate(data, level=9, strategy=zlib.Z_DEFAULT_STRATEGY):
    z = zlib.compressobj(level, zlib.DEFLATED, 15, 9, strategy)
    return z.compress(data) + z.flush()


def png(width, height, depth, color, interlace=0, filters=(0, 1, 2, 3, 4), before=b"", seed=1,
        palette=None, limit=None, pack=deflate, extra=b"", split=0):
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, limit or 1 << depth, (height, width, CHANNELS[color]))
    if depth == 16:
        samples[::2] = samples[::2] % 300  # some below, some just above 255
    data = pack(raw_rows(samples, depth, interlace, filters) + extra)
    out = SIGNATURE + ihdr(width, height, depth, color, interlace)
    if color == 3:
        entries = palette or 1 << depth
        out += chunk(b"PLTE", rng.integers(0, 256, entries * 3, dtype=np.uint8).tobytes())
    out += before
    if split:
        out += b"".join(chunk(b"IDAT", data[i : i + split]) for i in range(0, len(data), split))
        out += chunk(b"IDAT")
    else:
        out += chunk(b"IDAT", data)
    return out + chunk(b"IEND")


def good_pngs():
    for color, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16),
                          6: (8, 16)}.items():
        for depth in depths:
            for interlace in (0, 1):
                yield f"color{color}_bits{depth}_interlace{interlace}", png(11, 9, depth, color,
                                                                           interlace)
    for n in range(1, 9):
        yield f"interlaced_{n}x{9 - n}", png(n, 9 - n, 8, 2, 1)
        yield f"interlaced_bits1_{n}x{9 - n}", png(n, 9 - n, 1, 0, 1)
    for n in range(5):
        yield f"filter{n}_rgb", png(6, 5, 8, 2, filters=(n,))
        yield f"filter{n}_rgb16", png(6, 5, 16, 2, filters=(n,))
        yield f"filter{n}_bits2", png(9, 5, 2, 0, filters=(n,))
    yield "trns_grey", png(9, 6, 8, 0, before=chunk(b"tRNS", b"\0\x10"))
    yield "trns_grey2", png(9, 6, 2, 0, before=chunk(b"tRNS", b"\0\x01"))
    yield "trns_grey16", png(9, 6, 16, 0, before=chunk(b"tRNS", b"\0\x10"))
    yield "trns_rgb", png(9, 6, 8, 2, before=chunk(b"tRNS", b"\0\x10\0\x20\0\x30"))
    yield "trns_rgb16", png(9, 6, 16, 2, before=chunk(b"tRNS", b"\0\x10\0\x20\0\x30"))
    yield "trns_palette", png(9, 6, 4, 3, before=chunk(b"tRNS", bytes(range(0, 160, 10))))
    yield "gamma_srgb_chrm", png(9, 6, 8, 2, before=chunk(b"gAMA", b"\0\0\x20\0") + chunk(
        b"cHRM", bytes(32)) + chunk(b"sRGB", b"\0"))
    yield "text_time", png(9, 6, 8, 2, before=chunk(b"tEXt", b"Title\0x") + chunk(
        b"tIME", b"\x07\xe8\1\1\0\0\0") + chunk(b"prVt", b"abc"))
    yield "palette_in_rgb", png(9, 6, 8, 2, before=chunk(b"PLTE", bytes(range(9))))
    yield "palette_short", png(9, 6, 8, 3, palette=5)
    yield "palette_index_outside", png(9, 6, 8, 3, palette=100)
    yield "palette_too_long", png(9, 6, 2, 3, palette=9)
    yield "idat_in_pieces", png(13, 9, 8, 6, split=7)
    yield "deflate_stored", png(9, 6, 8, 2, pack=lambda d: deflate(d, 0))
    yield "deflate_fixed", png(9, 6, 8, 2, pack=lambda d: deflate(d, 9, zlib.Z_FIXED))
    yield "deflate_rle", png(9, 6, 8, 2, pack=lambda d: deflate(d, 9, zlib.Z_RLE), limit=2)
    yield "deflate_huffman", png(9, 6, 8, 2, pack=lambda d: deflate(d, 9, zlib.Z_HUFFMAN_ONLY))
    yield "rows_too_many", png(9, 6, 8, 2, extra=bytes(300))
    yield "bytes_after_end", png(9, 6, 8, 2) + b"anything"
    yield "flat_200x100", png(200, 100, 8, 2, filters=(0,), limit=1)
    frames = [Image.fromarray(smooth(12, 7, 3)), Image.fromarray(255 - smooth(12, 7, 3))]
    out = io.BytesIO()
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:], duration=50)
    yield "apng", out.getvalue()
    out = io.BytesIO()
    frames[0].save(out, "PNG", save_all=True, append_images=frames, default_image=True)
    yield "apng_default_image", out.getvalue()
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    frames[0].save(out, "PNG", exif=exif)
    yield "exif_orientation", out.getvalue()


def bad_pngs():
    good = png(5, 4, 8, 2)
    head, idat, end = good[8:33], good[33:-12], good[-12:]
    rows = raw_rows(np.zeros((4, 5, 3), int), 8, 0, (0,))
    z = deflate(rows)

    def made(*chunks):
        return SIGNATURE + b"".join(chunks)

    yield "no_chunks", SIGNATURE, "ends early"
    yield "idat_first", made(idat, head, end), "first chunk"
    yield "ihdr_short", made(chunk(b"IHDR", head[8:20]), idat, end), "first chunk"
    yield "ihdr_twice", made(head, head, idat, end), "two IHDR"
    yield "zero_width", made(ihdr(0, 4, 8, 2), idat, end), "0 x 4 pixels"
    yield "zero_height", made(ihdr(5, 0, 8, 2), idat, end), "5 x 0 pixels"
    yield "width_2_31", made(ihdr(1 << 31, 1 << 31, 8, 2), idat, end), "pixels"
    yield "width_2_31_less_1", made(ihdr((1 << 31) - 1, (1 << 31) - 1, 8, 2), idat, end), "too large"
    yield "pixels_limit", made(ihdr(178956971, 1, 1, 0), idat, end), "too large"
    yield "pixels_30000", made(ihdr(30000, 30000, 1, 0), idat, end), "too large"
    yield "bomb", made(ihdr(13000, 13000, 16, 6), idat, end), "can't hold"
    yield "bomb_bits1", made(ihdr(1, 178956970, 1, 0), idat, end), "can't hold"
    for color, depth in ((2, 1), (2, 4), (3, 16), (4, 4), (6, 2), (0, 3), (0, 0), (1, 8), (5, 8),
                         (7, 8), (2, 32)):
        yield f"color{color}_bits{depth}", made(ihdr(5, 4, depth, color), idat, end), "colour type"
    yield "compression_1", made(ihdr(5, 4, 8, 2, compression=1), idat, end), "compression 1"
    yield "filtering_1", made(ihdr(5, 4, 8, 2, filtering=1), idat, end), "filter 1"
    yield "interlace_2", made(ihdr(5, 4, 8, 2, 2), idat, end), "interlace 2"
    yield "no_idat", made(head, end), "can't hold"
    yield "idat_empty", made(head, chunk(b"IDAT"), end), "can't hold"
    yield "idat_apart", made(head, chunk(b"IDAT", z[:9]), chunk(b"tEXt", b"a\0b"),
                             chunk(b"IDAT", z[9:]), end), "one run"
    yield "idat_huge", made(head, struct.pack(">I", 0x7FFFFFFF) + idat[4:], end), "ends early"
    yield "idat_2_32", made(head, struct.pack(">I", 0xFFFFFFFF) + idat[4:], end), "ends early"
    yield "no_iend", made(head, idat), "ends early"
    yield "iend_long", made(head, idat, chunk(b"IEND", b"x")), "IEND"
    yield "critical", made(head, chunk(b"CgBI", b"abcd"), idat, end), "CgBI"
    yield "chunk_name", made(head, chunk(b"t\0xt"), idat, end), "chunk name"
    yield "crc_ihdr", made(chunk(b"IHDR", head[8:21], 1), idat, end), "CRC"
    yield "crc_idat", made(head, chunk(b"IDAT", z, 1), end), "CRC"
    yield "crc_text", made(head, chunk(b"tEXt", b"a\0b", 1), idat, end), "CRC"
    plte = chunk(b"PLTE", bytes(6))
    index = ihdr(5, 4, 8, 3)
    data = chunk(b"IDAT", deflate(raw_rows(np.zeros((4, 5, 1), int), 8, 0, (0,))))
    yield "palette_missing", made(index, data, end), "without PLTE"
    yield "palette_late", made(head, idat, plte, end), "PLTE"
    yield "palette_twice", made(index, plte, plte, data, end), "PLTE"
    yield "palette_in_grey", made(ihdr(5, 4, 8, 0), plte, data, end), "PLTE"
    yield "palette_of_4", made(index, chunk(b"PLTE", bytes(4)), data, end), "PLTE chunk of 4"
    yield "palette_of_0", made(index, chunk(b"PLTE"), data, end), "PLTE chunk of 0"
    yield "palette_of_771", made(index, chunk(b"PLTE", bytes(771)), data, end), "PLTE chunk of 771"
    yield "filter_5", made(head, chunk(b"IDAT", deflate(b"\5" + rows[1:])), end), "filter 5"
    yield "rows_missing", made(head, chunk(b"IDAT", deflate(rows[:-1])), end), "cut off"
    yield "rows_far_too_many", made(head, chunk(b"IDAT", deflate(rows + bytes(70000))), end), "cut"
    yield "adler", made(head, chunk(b"IDAT", z[:-1] + bytes([z[-1] ^ 1])), end), "cut off"
    yield "zlib_header", made(head, chunk(b"IDAT", b"\x79" + z[1:]), end), "cut off"
    yield "zlib_dictionary", made(head, chunk(b"IDAT", b"\x78\xbb" + z[2:]), end), "cut off"
    for n in range(6, len(z)):
        yield f"zlib_cut_{n}", made(head, chunk(b"IDAT", z[:n]), end), "PNG"


# ---- JPEG files ----

def jpeg(array, mode=None, **options):
    out = io.BytesIO()
    Image.fromarray(array, mode).save(out, "JPEG", **options)
    return out.getvalue()


def segments(data):
    """[(marker, payload)] up to SOS; the rest as the last payload."""
    out, at = [], 2
    while True:
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        if marker == 0xDA:
            return out + [(marker, data[at + 2 :])]
        out.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + length


def joined(parts):
    out = b"\xff\xd8"
    for marker, payload in parts:
        size = b"" if marker == 0xDA else struct.pack(">H", len(payload) + 2)
        out += bytes([0xFF, marker]) + size + payload
    return out


def without(data, marker):
    return joined([p for p in segments(data) if p[0] != marker])


def changed(data, marker, at, value):
    """The byte `at` of the payload of the first segment `marker` set to value."""
    parts = segments(data)
    i = [m for m, _ in parts].index(marker)
    payload = bytearray(parts[i][1])
    payload[at] = value
    parts[i] = (marker, bytes(payload))
    return joined(parts)


def inserted(data, *parts):
    return joined(list(parts) + segments(data))


def good_jpegs():
    color, grey, cmyk = smooth(35, 27, 3), smooth(35, 27, 1)[..., 0], smooth(35, 27, 4)
    for name, sub in (("444", 0), ("422", 1), ("420", 2)):
        yield f"color_{name}", jpeg(color, subsampling=sub, quality=85)
        yield f"progressive_{name}", jpeg(color, subsampling=sub, quality=85, progressive=True)
    # Samplings that Pillow does not write: as many blocks in another arrangement, so valid files.
    square = smooth(32, 32, 3)
    for name, sub, factors in (("440", 1, 0x12), ("411", 2, 0x41), ("4x1", 2, 0x14)):
        for kind in ("color", "progressive"):
            yield f"{kind}_{name}", changed(jpeg(square, subsampling=sub, quality=85, progressive=kind == "progressive"),
                                            0xC2 if kind == "progressive" else 0xC0, 7, factors)
    yield "grey_2x2", changed(jpeg(smooth(32, 32, 1)[..., 0], quality=85), 0xC0, 7, 0x22)
    yield "optimised", jpeg(color, quality=70, optimize=True)
    yield "quality_10", jpeg(color, quality=10)
    yield "restarts", jpeg(color, quality=75, restart_marker_blocks=1)
    yield "restarts_progressive", jpeg(color, quality=75, restart_marker_blocks=2, progressive=True)
    yield "grey", jpeg(grey, quality=85)
    yield "grey_progressive", jpeg(grey, quality=85, progressive=True)
    yield "rgb_stored", jpeg(color, quality=85, keep_rgb=True)
    yield "extended", joined([(0xC1 if m == 0xC0 else m, p)
                              for m, p in segments(jpeg(color, quality=60))])
    for w, h in ((1, 1), (8, 8), (17, 1), (1, 17), (16, 16)):
        yield f"size_{w}x{h}", jpeg(smooth(w, h, 3), quality=80)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "exif_orientation", jpeg(color, quality=50, exif=exif)
    plain = jpeg(color, quality=50)
    yield "bytes_after_end", plain + b"anything"
    yield "fill_bytes", plain[:2] + b"\xff\xff" + plain[2:]
    yield "unknown_segments", inserted(plain, (0xE5, b"abc"), (0xFE, b"a comment"))
    yield "cmyk", jpeg(cmyk, "CMYK", quality=80)
    yield "cmyk_progressive", jpeg(cmyk, "CMYK", quality=80, progressive=True)
    yield "cmyk_without_adobe", without(jpeg(cmyk, "CMYK", quality=80), 0xEE)
    yield "ycck", changed(jpeg(cmyk, "CMYK", quality=80), 0xEE, 11, 2)


def bad_jpegs():
    good = jpeg(smooth(24, 24, 3), quality=60)
    scans = jpeg(smooth(24, 24, 3), quality=60, progressive=True)
    yield "no_dht", without(good, 0xC4), "DC table 0 is used"
    yield "no_dqt", without(good, 0xDB), "quantisation table 0 is used"
    yield "no_sos", joined(segments(good)[:-1]) + b"\xff\xd9", "no image data"
    yield "no_sof", without(good, 0xC0), "before the frame"
    yield "no_scan_data", joined(segments(good)[:-1] + [(0xDA, segments(good)[-1][1][:12])]) \
        + b"\xff\xd9", "can't hold"
    yield "progressive_31_bytes", bytes.fromhex(
        "ffd8ffc2000b080001000101011100ffda0008010100000000ffd9"), "quantisation table"
    yield "two_frames", inserted(good, *[p for p in segments(good) if p[0] == 0xC0]), "two frames"
    for sof in (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF):
        yield f"sof{sof - 0xC0}", joined([(sof if m == 0xC0 else m, p)
                                          for m, p in segments(good)]), "not supported"
    yield "arithmetic_conditioning", inserted(good, (0xCC, b"\0\0")), "not supported"
    yield "bits_12", changed(good, 0xC0, 0, 12), "12 bits"
    yield "height_0", joined([(m, p[:1] + b"\0\0" + p[3:] if m == 0xC0 else p)
                              for m, p in segments(good)]), "24 x 0 pixels"
    yield "width_0", joined([(m, p[:3] + b"\0\0" + p[5:] if m == 0xC0 else p)
                             for m, p in segments(good)]), "0 x 24 pixels"
    yield "large", joined([(m, p[:1] + b"\xff\xdc\xff\xdc" + p[5:] if m == 0xC0 else p)
                           for m, p in segments(good)]), "too large"
    yield "bomb", joined([(m, p[:1] + b"\x30\0\x30\0" + p[5:] if m == 0xC0 else p)
                          for m, p in segments(good)]), "can't hold"
    yield "components_2", changed(good, 0xC0, 5, 2), "2 components"
    yield "components_0", changed(good, 0xC0, 5, 0), "0 components"
    yield "component_twice", changed(good, 0xC0, 9, 1), "two components"
    yield "sampling_0", changed(good, 0xC0, 7, 0x02), "sampling 0 x 2"
    yield "sampling_5", changed(good, 0xC0, 7, 0x51), "sampling 5 x 1"
    yield "quant_4", changed(good, 0xC0, 8, 4), "quantisation table 4"
    yield "dqt_id", changed(good, 0xDB, 0, 4), "quantisation table 4"
    yield "dqt_wide", changed(good, 0xDB, 0, 0x20), "quantisation table 0"
    yield "dqt_short", inserted(good, (0xDB, b"\0abc")), "quantisation table 0"
    yield "dht_class", changed(good, 0xC4, 0, 0x20), "Huffman table 2/0"
    yield "dht_id", changed(good, 0xC4, 0, 0x04), "Huffman table 0/4"
    yield "dht_short", inserted(good, (0xC4, b"\0abc")), "Huffman table"
    yield "dht_empty", inserted(good, (0xC4, bytes(17))), "0 symbols"
    yield "dht_257", inserted(good, (0xC4, b"\x10" + bytes(14) + b"\2\xff" + bytes(257))), "257"
    yield "dht_codes", inserted(good, (0xC4, b"\x10\3" + bytes(15) + bytes(3))), "Huffman"
    yield "dht_dc_symbol", inserted(good, (0xC4, b"\0\1" + bytes(15) + b"\x10")), "DC symbol 16"
    yield "dri_short", inserted(good, (0xDD, b"\0")), "restart"
    yield "scan_component", changed(good, 0xDA, 3, 9), "component 9"
    yield "scan_component_twice", changed(good, 0xDA, 5, 1), "component 1"
    yield "scan_tables", changed(good, 0xDA, 4, 0x33), "DC table 3"
    yield "scan_ac_table", changed(good, 0xDA, 4, 0x02), "AC table 2"
    yield "scan_count", changed(good, 0xDA, 2, 4), "4 components"
    yield "scan_band", changed(good, 0xDA, 10, 62), "coefficients 0 to 62"
    yield "scan_missing", joined([(m, p[:2] + b"\1\1\0" + p[-4:] if m == 0xDA else p)
                                  for m, p in segments(good)])[:-2] + b"\xff\xd9", "JPEG"
    yield "progressive_band", changed(scans, 0xDA, 10, 5), "coefficients 0 to 5"
    yield "progressive_bits", changed(scans, 0xDA, 11, 0xE0), "bits 14 to 0"
    tail = scans[:-2]
    at = tail.rindex(b"\xff\xda")
    yield "scans_101_more", tail + tail[at:] * 101 + b"\xff\xd9", "more than 100 scans"
    yield "marker_0", good[:2] + b"\xff\0" + good[2:], "JPEG"
    yield "soi_twice", good[:2] + good, "FFD8"
    yield "no_marker", good[:4] + b"\0\2" + good[6:], "JPEG"
    yield "segment_of_1", good[:2] + b"\xff\xe0\0\1" + good[2:], "segment of 1"
    yield "segment_long", good[:2] + b"\xff\xe0\xff\xff" + good[2:], "ends early"
    yield "soi_alone", b"\xff\xd8\xff", "ends early"


def other_formats():
    small = Image.fromarray(smooth(8, 8, 3))
    for name, kind in (("webp", "WebP"), ("gif", "GIF"), ("bmp", "BMP"), ("tiff", "TIFF"),
                       ("ppm", "PNM"), ("ico", "ICO"), ("jpeg2000", "JPEG 2000"), ("dds", "DDS"),
                       ("avif", "AVIF"), ("pdf", "PDF")):
        out = io.BytesIO()
        small.save(out, name)
        yield name, out.getvalue()[:200], kind + (")" if name == "ico" else "")
    yield "heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"
    yield "psd", b"8BPS\0\1", "PSD"
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"
    yield "jxl", b"\xff\x0a\0\0", "JPEG XL"
    yield "text", b"this is text", "starts with 74 68 69 73 20 69 73 20"
    yield "one_byte", b"\x89", "starts with 89)"
    yield "empty", b"", "empty file"
    yield "html", b"<!DOCTYPE html>", "web page"
    yield "lfs", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"
    yield "zip", b"PK\3\4abcd", "archive"
    yield "safetensors", b"\x10\0\0\0\0\0\0\0{}", "starts with 10 00"


# ---- the packs ----

def decode_pack():
    pack = Pack()
    for kind, files in (("png", good_pngs()), ("jpeg", good_jpegs())):
        for name, data in files:
            rgb = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            size = f"{rgb.shape[1]} {rgb.shape[0]}"
            pack.add(f"{kind} {name} {size}", data, result(rgb))
    return pack


def broken_pack():
    pack = Pack()
    for files in (bad_pngs(), bad_jpegs(), other_formats()):
        for name, data, text in files:
            pack.add(f"bad {name}", data, text.encode() + b"\0")
    return pack


def resize_pack():
    sizes = [(50, 37, 25, 20), (37, 50, 80, 80), (64, 48, 64, 30), (64, 48, 30, 48),
             (64, 48, 64, 48), (33, 33, 66, 7), (3, 3, 7, 11), (1, 1, 9, 9), (1, 9, 5, 2),
             (9, 1, 2, 5), (2, 301, 5, 30), (2, 200, 5, 30), (301, 2, 30, 5), (20, 300, 40, 30),
             (300, 20, 30, 40), (30, 61, 20, 41), (30, 61, 20, 40), (30, 60, 25, 50),
             (10, 1200, 8, 100), (40, 30, 41, 31), (100, 75, 13, 10), (5, 7, 40, 3),
             (500, 375, 330, 248), (375, 500, 248, 330), (640, 427, 335, 224), (300, 601, 248, 496)]
    pack = Pack()
    for i, (w, h, tw, th) in enumerate(sizes):
        for how in ("bicubic", "bilinear"):
            kind = "hard" if i % 3 == 1 else "noise"
            out = Image.fromarray(picture(w, h, kind, i)).resize((tw, th), getattr(Image, how.upper()))
            pack.add(f"resize {w} {h} {tw} {th} {how} {kind} {i}", result(np.asarray(out)))
    return pack


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5,) * 3, (0.5,) * 3)
NONE = ((0.0,) * 3, (1.0,) * 3)
ODD = ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))


def preprocess_pack():
    from timm.data.transforms_factory import create_transform

    # picture, target, crop_pct, crop_mode, interpolation, (mean, std), channels
    cases = [
        ((50, 37), (16, 16), 0.9, "center", "bicubic", IMAGENET, 3),
        ((37, 50), (16, 16), 0.875, "center", "bilinear", CLIP, 3),
        ((40, 40), (15, 15), 0.95, "center", "bicubic", HALF, 3),
        ((16, 16), (16, 16), 1.0, "center", "bicubic", NONE, 3),
        ((30, 20), (20, 20), 1.0, "center", "bicubic", ODD, 3),
        ((33, 20), (20, 20), 1.0, "center", "bicubic", ODD, 3),
        ((23, 20), (20, 20), 1.0, "center", "bicubic", ODD, 3),
        ((25, 20), (20, 20), 1.0, "center", "bicubic", ODD, 3),
        ((9, 7), (21, 21), 1.0, "center", "bicubic", IMAGENET, 3),
        ((50, 37), (12, 20), 0.9, "center", "bicubic", IMAGENET, 3),
        ((37, 50), (12, 20), 0.9, "center", "bilinear", IMAGENET, 3),
        ((50, 37), (20, 21), 1.1, "center", "bicubic", IMAGENET, 3),
        ((50, 37), (16, 16), 1.1, "center", "bicubic", IMAGENET, 3),
        ((50, 37), (15, 15), 1.2, "squash", "bicubic", CLIP, 3),
        ((50, 37), (16, 16), 1.0, "squash", "bicubic", HALF, 3),
        ((50, 37), (16, 12), 0.9, "squash", "bilinear", IMAGENET, 3),
        ((20, 120), (16, 24), 1.0, "squash", "bicubic", IMAGENET, 3),
        ((50, 37), (16, 16), 1.0, "border", "bicubic", IMAGENET, 3),
        ((37, 50), (16, 21), 0.9, "border", "bicubic", CLIP, 3),
        ((50, 20), (16, 16), 0.5, "border", "bilinear", ODD, 3),
        ((60, 160), (16, 16), 1.0, "center", "bicubic", IMAGENET, 3),
        ((50, 37), (16, 16), 0.9, "center", "bicubic", IMAGENET, 1),
        ((37, 50), (16, 20), 1.0, "border", "bilinear", CLIP, 1),
        ((500, 375), (224, 224), 0.9, "center", "bicubic", IMAGENET, 3),
        ((375, 500), (384, 384), 1.0, "squash", "bicubic", HALF, 3),
        ((640, 480), (224, 224), 0.875, "center", "bilinear", IMAGENET, 1),
    ]
    pack = Pack()
    for i, ((w, h), (th, tw), pct, mode, how, (mean, std), channels) in enumerate(cases):
        kind = "hard" if i % 4 == 3 else "noise"
        image = Image.fromarray(picture(w, h, kind, i)).convert("RGB" if channels == 3 else "L")
        transform = create_transform((channels, th, tw), interpolation=how, mean=mean[:channels],
                                     std=std[:channels], crop_pct=pct, crop_mode=mode)
        numbers = " ".join(float(v).hex() for v in (pct, *mean, *std))
        pack.add(f"pre {w} {h} {th} {tw} {mode} {how} {channels} {kind} {i} {numbers}",
                 result(transform(image).numpy()))
    return pack


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/golden"
    import timm

    print("Pillow", PIL.__version__, "timm", timm.__version__)
    decode_pack().write(f"{folder}/image_decode.pack")
    broken_pack().write(f"{folder}/image_broken.pack")
    resize_pack().write(f"{folder}/image_resize.pack")
    preprocess_pack().write(f"{folder}/image_preprocess.pack")


if __name__ == "__main__":
    main()
