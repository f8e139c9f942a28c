#!/bin/sh
# The safetensors reader and an independent one agree on 20,000 files (differential.py for more).
exec python3 tests/fuzz/differential.py "${B:-build}/fuzz/answer_safetensors" --files 20000
