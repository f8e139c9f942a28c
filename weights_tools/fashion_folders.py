#!/usr/bin/env python3
"""Fashion-MNIST as folders of PNG files, one folder a class: what accuracy.py reads.

    apt-get install dataset-fashion-mnist
    fashion_folders.py --split test -o fashion_test
    fashion_folders.py --split test --per-class 20 -o samples/images

DIR/CLASS/NNNN.png holds image NNNN of the split, 28 x 28, 8-bit grey. Standard library only.
"""
import argparse
import gzip
import os
import struct
import zlib

DEBIAN = '/usr/share/datasets/fashion-mnist'
# The data set's classes in label order, spelt so that each can name a folder.
LABELS = ('T-shirt', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag',
          'Ankle-boot')
PREFIX = {'train': 'train', 'test': 't10k'}


def read_idx(path):
    """(shape, bytes) of an idx file: 0, 0, type 8 (bytes), rank, big-endian sizes, data."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b'\0\0\x08':
        raise ValueError(f'{path}: not an idx file of unsigned bytes')
    rank = content[3]
    shape = struct.unpack_from(f'>{rank}I', content, 4)
    data = content[4 + 4 * rank:]
    size = 1
    for extent in shape:
        size *= extent
    if len(data) != size:
        raise ValueError(f'{path}: {len(data)} bytes of data, expected {size}')
    return shape, data


def read_split(folder, split):
    """(images, labels): shape (count, height, width) with its bytes, and one byte a label."""
    name = os.path.join(folder, PREFIX[split])
    shape, pixels = read_idx(name + '-images-idx3-ubyte.gz')
    (count,), labels = read_idx(name + '-labels-idx1-ubyte.gz')
    if count != shape[0]:
        raise ValueError(f'{folder}: {shape[0]} images, {count} labels')
    return (shape, pixels), labels


def grey_png(width, height, pixels):
    """The bytes of an 8-bit grey PNG of `pixels` (row by row)."""
    def chunk(kind, data):
        return (struct.pack('>I', len(data)) + kind + data
                + struct.pack('>I', zlib.crc32(kind + data)))
    rows = b''.join(b'\0' + pixels[y * width:(y + 1) * width] for y in range(height))
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
            + chunk(b'IDAT', zlib.compress(rows, 9)) + chunk(b'IEND', b''))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('-o', '--output', required=True, metavar='DIR')
    parser.add_argument('--data', default=DEBIAN, metavar='DIR',
                        help='the idx files (default: %(default)s)')
    parser.add_argument('--split', choices=sorted(PREFIX), default='test')
    parser.add_argument('--limit', type=int, metavar='N', help='only the first N images')
    parser.add_argument('--per-class', type=int, metavar='N', help='only the first N of each class')
    args = parser.parse_args()
    ((count, height, width), pixels), labels = read_split(args.data, args.split)
    written = [0] * len(LABELS)
    for name in LABELS:
        os.makedirs(os.path.join(args.output, name), exist_ok=True)
    for i in range(count if args.limit is None else min(count, args.limit)):
        label = labels[i]
        if args.per_class is not None and written[label] == args.per_class:
            continue
        written[label] += 1
        image = pixels[i * height * width:(i + 1) * height * width]
        with open(os.path.join(args.output, LABELS[label], f'{i:04}.png'), 'wb') as file:
            file.write(grey_png(width, height, image))
    print(f'{args.output}: {sum(written)} images of {len(LABELS)} classes')


if __name__ == '__main__':
    main()
