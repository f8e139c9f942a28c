#!/usr/bin/env python3
"""Top-1 accuracy of vitrun on labelled images, unmasked and under mask configurations.

    fashion_folders.py --split test -o fashion_test
    accuracy.py build/vitrun --weights samples/fashion_vit.safetensors --data fashion_test \\
        --predictions samples/predictions.npy --masks samples/masks --json-out accuracy.json
    accuracy.py build/vitrun --weights W --data DIR --per-class 5 -- --kernel sparse

The images are DIR/CLASS/FILE, CLASS the label's name as vitrun prints it. What stands after -- goes
to vitrun as it is. Prints the result without masks, then, with --masks, a Markdown table, each row
when it is there; --json-out is written anew after each row, so that an interrupted run keeps its
rows. "Same class" compares with the first row. Forward is the forward pass alone, images/s counts
the whole program. Exit status 1 if vitrun refuses a configuration. Standard library only.
"""
import argparse
import ast
import collections
import json
import os
import subprocess
import sys

CHUNK = 2000  # images a command line
EVERY_CLASS = 1000000  # as --topk: more than any model has


class Failed(Exception):
    """One line that says what is wrong."""


def vitrun(args, options, images):
    """The JSON document of one run over `images`; raises Failed with vitrun's message."""
    command = [args.vitrun, 'run', '--json', '--weights', args.weights, *args.common, *options]
    done = subprocess.run([*command, '--', *images], capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ['(no message)']
        raise Failed(f'vitrun failed with exit status {done.returncode}: {lines[0]}')
    return json.loads(done.stdout)


def find_images(args):
    """[(path, class name)] in order of names; every class name is one of the model's labels."""
    found = []
    for name in sorted(os.listdir(args.data)):
        folder = os.path.join(args.data, name)
        if name.startswith('.') or not os.path.isdir(folder):
            continue
        files = sorted(f for f in os.listdir(folder) if not f.startswith('.'))
        found += [(os.path.join(folder, f), name) for f in files[:args.per_class]]
    if not found:
        raise Failed(f'{args.data}: no images; expected a folder a class')
    document = vitrun(args, ['--topk', str(EVERY_CLASS)], [found[0][0]])
    known = {entry.get('label') for entry in document['results'][0].get('top', [])}
    strange = sorted({name for _, name in found} - known)
    if strange:
        raise Failed(f'{args.data}: the model has no label named {", ".join(strange)}')
    return found


def read_predictions(path):
    """The bytes of a one-dimensional uint8 .npy file."""
    with open(path, 'rb') as file:
        content = file.read()
    if content[:6] != b'\x93NUMPY' or content[6] != 1:
        raise Failed(f'{path}: not a .npy file of version 1')
    start = 10 + int.from_bytes(content[8:10], 'little')
    header = ast.literal_eval(content[10:start].decode('latin-1'))
    if header['descr'] != '|u1' or header['shape'] != (len(content) - start,):
        raise Failed(f'{path}: expected one dimension of uint8')
    return content[start:]


def differing(path, images, classes):
    """Images whose class is not the one that the .npy file has at the number in their name."""
    predicted = read_predictions(path)
    different = []
    for (image, _), found in zip(images, classes):
        stem = os.path.splitext(os.path.basename(image))[0]
        if not stem.isdecimal() or int(stem) >= len(predicted):
            raise Failed(f'{image}: its name is no index into {path}')
        if predicted[int(stem)] != found:
            different.append(image)
    return different


def head_count(text):
    """Number of heads in "0-3,5"."""
    ranges = [part.split('-') for part in text.split(',')]
    return sum(int(r[-1]) - int(r[0]) + 1 for r in ranges)


def mean_density(document):
    """Density averaged over all layers and heads."""
    model = document['model']
    total = sum(entry['density'] * head_count(entry['heads']) for entry in document['layers'])
    return total / (model['layers'] * model['heads'])


def measure(args, images, options):
    """(row for the JSON file, class of each image, how vitrun ran) of one configuration."""
    classes, correct, forward, total = [], 0, 0.0, 0.0
    for i in range(0, len(images), CHUNK):
        chunk = images[i:i + CHUNK]
        document = vitrun(args, ['--topk', '1', *options], [path for path, _ in chunk])
        if i == 0:
            first = document
        best = [result['top'][0] for result in document['results']]
        classes += [entry['class'] for entry in best]
        correct += sum(entry['label'] == name for entry, (_, name) in zip(best, chunk))
        forward += document['time_ms']['forward']
        total += document['time_ms']['total']
    row = {'images': len(images), 'top1': correct / len(images), 'density': mean_density(first),
           'kernels': dict(collections.Counter(entry['kernel'] for entry in first['layers'])),
           'forward_ms_per_image': forward / len(images),
           'images_per_s': 1000 * len(images) / total}
    about = {key: first[key] for key in ('vitrun', 'device', 'dtype', 'threads')}
    return row, classes, about


def write_json(path, document):
    """Replaces the file as a whole: a reader never sees half of it."""
    if path:
        with open(path + '.part', 'w', encoding='utf-8') as file:
            json.dump(document, file, indent=1)
            file.write('\n')
        os.replace(path + '.part', path)


def say(line):
    """To standard output, at once."""
    print(line, flush=True)


def table_row(row):
    """One line of the Markdown table."""
    kernels = ', '.join(f'{name} x{count}' for name, count in row['kernels'].items())
    cells = (row['mask'], f'{100 * row["density"]:.2f} %', kernels, f'{100 * row["top1"]:.2f} %',
             f'{100 * row["agreement_top1"]:.2f} %', f'{row["forward_ms_per_image"]:.2f}')
    return f'| {" | ".join(cells)} |'


def measure_first(args, images):
    """Prints the result without --masks; returns (document for --json-out, class of each image)."""
    row, classes, about = measure(args, images, [])
    masked = any(option.startswith('--mask') for option in args.common)
    row = {'mask': 'as given' if masked else 'dense', **row, 'agreement_top1': 1.0}
    summary = (f'{row["images"]} images, top-1 {100 * row["top1"]:.2f} %, '
               f'{row["images_per_s"]:.1f} images/s, forward {row["forward_ms_per_image"]:.2f} ms '
               f'an image ({about["device"]}, {about["dtype"]}, {about["threads"]} threads)')
    if args.predictions:
        row['differ_from_predictions'] = differing(args.predictions, images, classes)
        summary += f', {len(row["differ_from_predictions"])} differ from {args.predictions}'
    say(summary)
    document = {**about, 'weights': args.weights, 'options': args.common, 'rows': [row]}
    write_json(args.json_out, document)
    return document, classes


def measure_masks(args, images, document, first):
    """Prints the table and adds its rows to the document; returns the number of failures."""
    say('\n| mask | density | kernels | top-1 | same class | forward, ms an image |')
    say('| --- | --- | --- | --- | --- | --- |')
    say(table_row(document['rows'][0]))
    failed = 0
    for name in sorted(f for f in os.listdir(args.masks) if f.endswith('.json')):
        config = os.path.join(args.masks, name)
        try:
            row, classes, _ = measure(args, images, ['--mask-config', config])
        except Failed as error:
            print(f'accuracy.py: {error}', file=sys.stderr)
            failed += 1
            continue
        same = sum(a == b for a, b in zip(classes, first)) / len(images)
        row = {'mask': os.path.splitext(name)[0], **row, 'agreement_top1': same}
        say(table_row(row))
        document['rows'].append(row)
        write_json(args.json_out, document)
    return failed


def parse_arguments(argv):
    """The options; `common` is what every run of vitrun is given."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0],
                                     epilog='What stands after -- goes to vitrun as it is.')
    parser.add_argument('vitrun', metavar='VITRUN', help='the program')
    parser.add_argument('--weights', required=True)
    parser.add_argument('--data', required=True, metavar='DIR', help='images, a folder a class')
    parser.add_argument('--masks', metavar='DIR', help='measure every *.json in it as well')
    parser.add_argument('--predictions', metavar='FILE',
                        help='count the classes that differ from this .npy file of uint8; an '
                        'image\'s name is its index there')
    parser.add_argument('--per-class', type=int, metavar='N', help='only the first N of each class')
    parser.add_argument('--batch', metavar='N')
    parser.add_argument('--threads', metavar='N')
    parser.add_argument('--json-out', metavar='FILE')
    end = argv.index('--') if '--' in argv else len(argv)
    args = parser.parse_args(argv[:end])
    args.common = argv[end + 1:]
    for option, value in (('--threads', args.threads), ('--batch', args.batch)):
        if value:
            args.common = [option, value, *args.common]
    return args


def main():
    args = parse_arguments(sys.argv[1:])
    try:
        images = find_images(args)
        document, classes = measure_first(args, images)
        failed = measure_masks(args, images, document, classes) if args.masks else 0
    except (Failed, OSError) as error:
        sys.exit(f'accuracy.py: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
