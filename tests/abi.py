#!/usr/bin/env python3
"""The binary interface of vitrun.h as text: functions with their types, values of enumerations, sizes of
structures and the offset and size of each of their fields, as the compiler lays them out.

    tests/abi.py CC engine/vitrun.h >tests/golden/vitrun.abi

tests/cli/test_abi.sh compares it with what is kept there. A line that changes or goes makes programs
that were compiled before run wrong: see "Versions" in vitrun.h. New lines for functions are fine.
"""
import os
import re
import subprocess
import sys
import tempfile


def plain(path):
    """The header without comments, preprocessor lines and line breaks."""
    with open(path, encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", " ", f.read(), flags=re.S).replace("\\\n", " ")
    text = re.sub(r"^#.*$", "", text, flags=re.M)
    return re.sub(r"\s+", " ", text)


def fields(body):
    for declaration in filter(str.strip, body.split(";")):
        pointer = re.search(r"\(\s*\*\s*(\w+)\s*\)", declaration)
        for declarator in [declaration] if pointer else declaration.split(","):
            yield pointer[1] if pointer else re.search(r"(\w+)\s*(\[[^]]*\]\s*)*$", declarator)[1]


def program(header, text):
    lines = ["#include <stddef.h>", "#include <stdio.h>", f'#include "{os.path.abspath(header)}"',
             "int main(void) {"]

    def show(label, *values):
        arguments = "".join(f", (size_t)({value})" for value in values)
        lines.append(f'printf("{label}{" %zu" * len(values)}\\n"{arguments});')

    for body, name in re.findall(r"typedef enum \{(.*?)\} (\w+);", text):
        for value in re.findall(r"(\w+)\s*(?:=[^,]*)?(?:,|$)", body.strip()):
            show(f"value {name} {value}", value)
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text):
        show(f"struct {name}", f"sizeof({name})")
        for field in fields(body):
            show(f"field {name}.{field}", f"offsetof({name}, {field})",
                 f"sizeof((({name} *)0)->{field})")
    return "\n".join(lines + ["return 0; }"])


def main():
    compiler, header = sys.argv[1:]
    text = plain(header)
    for function in sorted(re.findall(r"VITRUN_API (.*?);", text)):
        print("function", function)
    for function in sorted(re.findall(r"typedef (\w+ \(\*\w+\)\(.*?\));", text)):
        print("type", function)
    with tempfile.TemporaryDirectory() as folder:
        source, binary = os.path.join(folder, "abi.c"), os.path.join(folder, "abi")
        with open(source, "w", encoding="utf-8") as f:
            f.write(program(header, text))
        subprocess.run(compiler.split() + [source, "-o", binary], check=True)
        sys.stdout.flush()
        subprocess.run([binary], check=True)


main()
