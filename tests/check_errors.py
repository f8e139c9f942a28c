#!/usr/bin/env python3
"""Which error texts does no test look for?

    tests/check_errors.py [-v]

An error site is a call that sets a text: vt_fail, vte_fail and the like, whose format is in the
source. It counts as checked where a test (C, shell or Python) holds a piece of the format of at
least 12 characters, or all of a shorter piece between two conversions. Left out: the GPU's files,
which other tests check on a GPU; texts about memory that is short, which tests/faults brings about at every
call; and the sites that UNREACHABLE lists, with the reason.
"""
import pathlib
import re
import sys

FOLDERS = ['kernels', 'kernels/cpu', 'weights_tools', 'models', 'engine', 'engine/image', 'engine/masks',
           'engine/experiments', 'engine/cli']
CALL = re.compile(r'\b(vt_fail|vte_fail|image_fail|image_fail_at|fail_at|fail_expected|timm_bad|bad_value|'
                  r'bad|fail|refuse|unexpected|wrong|complain|option_error|broken|no_memory|wrong_shape|out_of_range|give_up)\s*\(')
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
CONVERSION = re.compile(r'%[-+ #0]*(?:\*|\d+)?(?:\.(?:\*|\d+))?(?:hh|h|ll|l|z|j|t|L)?[diouxXeEfgGcspn%]|" PRI\w+ "')
MEMORY = re.compile(r'not enough memory|out of memory|size overflows')
PIECE = 12

# text: why no test can bring it about
UNREACHABLE = {
    'oneDNN: %s failed (status %d)': 'oneDNN takes all that it is asked',
    'broken JPEG ': 'the macro itself',
    'broken JPEG (two sizes)': 'stb_image reads the header that was checked before',
}


def unescape(s):
    return s.replace('\\"', '"').replace('\\n', '\n').replace('\\\\', '\\').replace("\\'", "'")


def call_text(source, start):
    """The arguments from the parenthesis at start on, to its end."""
    depth, i, quoted = 0, start, False
    while i < len(source):
        c = source[i]
        if quoted:
            if c == '\\':
                i += 1
            elif c == '"':
                quoted = False
        elif c == '"':
            quoted = True
        elif c == '(':
            depth += 1
        elif c == ')':
            depth -= 1
            if depth == 0:
                break
        i += 1
    return source[start:i]


def sites(path):
    source = path.read_text(encoding='utf-8')
    for m in CALL.finditer(source):
        arguments = call_text(source, m.end() - 1)
        first = LITERAL.search(arguments)
        if not first:
            continue
        # adjacent literals are one format; macros such as PRIu64 stand between them
        text, at = '', first.start()
        while (lit := LITERAL.match(arguments, at)):
            text += lit.group(1)
            rest = re.match(r'\s*(?:(PRI\w+)\s*)?(?=")', arguments[lit.end():])
            if not rest:
                break
            text += '%' if rest.group(1) and not text.endswith('%') else ''
            at = lit.end() + rest.end()
        yield source.count('\n', 0, m.start()) + 1, unescape(text)


def pieces(text):
    parts = [p for p in CONVERSION.split(text.replace('%%', '\0'))]
    return [p.replace('\0', '%').strip(' ') for p in parts]


def pack_texts(path):
    """What the records "bad NAME" of a pack of broken pictures expect (tests/support_pack.h)."""
    data, at, texts = path.read_bytes(), 0, []
    while at < len(data):
        end = data.index(b'\n', at)
        name, sizes = data[at:end].split(b' | ')
        at, blobs = end + 1, []
        for size in map(int, sizes.split()):
            blobs.append(data[at:at + size])
            at += size
        if name.startswith(b'bad '):
            texts.append(blobs[1].rstrip(b'\0').decode())
    return texts


def is_checked(text, tests, whole):
    plain = CONVERSION.sub('%', text)
    found = any(len(t) > 4 and (t in text or re.sub(r'\d+', '%', t) in plain) for t in whole)
    for piece in pieces(text):
        if len(piece) < 5:
            continue
        size = min(PIECE, len(piece))
        found |= any(piece[i:i + size] in tests for i in range(len(piece) - size + 1))
    return found


def main():
    tests = ''
    for path in sorted(pathlib.Path('tests').rglob('*')):
        if path.suffix in ('.c', '.sh', '.py', '.h') and path.name != pathlib.Path(__file__).name:
            body = path.read_text(encoding='utf-8')
            tests += unescape(re.sub(r'"\s*\n?\s*"', '', body)) + '\n'
    packs = pack_texts(pathlib.Path('tests/golden/image_broken.pack'))
    total, open_sites = 0, []
    for folder in FOLDERS:
        for path in sorted(pathlib.Path(folder).glob('*.c')):
            for line, text in sites(path):
                if MEMORY.search(text) or max(map(len, pieces(text)), default=0) < 5:
                    continue
                total += 1
                if text not in UNREACHABLE and not is_checked(text, tests, packs):
                    open_sites.append(f'{path}:{line}: {text!r}')
    for site in open_sites:
        print(site)
    print('not ok' if open_sites else 'ok', f'error texts: {total}, {len(open_sites)} that no test looks for, {len(UNREACHABLE)} unreachable')
    return 1 if open_sites else 0


if __name__ == '__main__':
    sys.exit(main())
