#!/usr/bin/env python3
"""Coverage of our C code by the tests that a coverage build has run, from gcov's own counts.

    tests/coverage.py BUILD [-v] [FILE...]

Prints for each file lines and branches that were taken of those that there are, and the sums; with
-v each line that was not run and each branch that was not taken (of FILEs, where given). A file that
is compiled several times (once for each instruction set) counts once: what any of them has run. Branches
that gcov calls exceptional do not exist in C. Exits with 1 where a goal is missed.
"""
import collections
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

GOALS = {'': (95, 90)}  # folder or file: percent of lines, of branches


def counts(build):
    """file -> (line -> runs, (line, index) -> times taken)"""
    lines = collections.defaultdict(lambda: collections.defaultdict(int))
    branches = collections.defaultdict(lambda: collections.defaultdict(int))
    data = sorted(p.resolve() for p in pathlib.Path(build, 'obj').rglob('*.gcda'))
    root = pathlib.Path.cwd()
    with tempfile.TemporaryDirectory() as work:
        for i in range(0, len(data), 50):
            subprocess.run(['gcov', '-b', '--json-format', *map(str, data[i:i + 50])], cwd=work, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for name in pathlib.Path(work).glob('*.json.gz'):
                for f in json.loads(gzip.open(name).read())['files']:
                    path = f['file']
                    if path.startswith(str(root)):
                        path = str(pathlib.Path(path).relative_to(root))
                    if path.startswith(('/', 'tests/')):
                        continue
                    for line in f['lines']:
                        at = line['line_number']
                        lines[path][at] += line['count']
                        for k, b in enumerate(line['branches']):
                            if not b['throw']:
                                branches[path][at, k] += b['count']
                name.unlink()
    return lines, branches


def percent(got, of):
    return 100 * got / of if of else 100


def share(table):
    return sum(1 for n in table.values() if n), len(table)


def main():
    args = [a for a in sys.argv[1:] if a != '-v']
    lines, branches = counts(args[0])
    total = [0, 0, 0, 0]
    print(f'{"file":42} {"lines":>15} {"branches":>17}')
    for path in sorted(lines):
        row = (*share(lines[path]), *share(branches[path]))
        total = [a + b for a, b in zip(total, row)]
        print(f'{path:42} {row[0]:5}/{row[1]:<5}{percent(*row[:2]):5.1f} {row[2]:5}/{row[3]:<5}{percent(*row[2:]):6.1f}')
        if '-v' in sys.argv and (not args[1:] or path in args[1:]):
            not_run = [n for n, c in lines[path].items() if not c]
            not_taken = sorted({n for (n, _), c in branches[path].items() if not c} - set(not_run))
            print('    not run:', *sorted(not_run))
            print('    not taken:', *not_taken)
    print(f'{"all":42} {total[0]:5}/{total[1]:<5}{percent(*total[:2]):5.1f} {total[2]:5}/{total[3]:<5}{percent(*total[2:]):6.1f}')
    missed = percent(*total[:2]) < GOALS[''][0] or percent(*total[2:]) < GOALS[''][1]
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
