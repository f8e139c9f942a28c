#!/bin/sh
# The memory example of xFormers' how-to, done again: one attention of 16 heads over 1024 tokens, heads 1024
# wide, fp32, under random masks of 90 % and of 10 %. Prints, for each, what every kernel takes.
#
#     samples/memory/run.sh [VITRUN [OPTION]...]
#
# Options go to vitrun bench, such as --device cpu --runs 3. Each mask has a process of its own, so that no
# figure depends on what ran before. Where python3 has PyTorch and a GPU, the same is done with it.
set -eu
vitrun=${1:-build/vitrun}
[ $# -eq 0 ] || shift
for sparsity in 0.1 0.9; do
    "$vitrun" bench --attention 16x1024x1024 --grid 32x32 --dtype fp32 --mask "random(sparsity=$sparsity)" "$@"
    echo
done
if python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    for sparsity in 0.1 0.9; do
        python3 "${0%/*}/pytorch.py" "$sparsity"
    done
else
    echo "python3 finds no PyTorch with a GPU: vitrun alone was measured" >&2
fi
