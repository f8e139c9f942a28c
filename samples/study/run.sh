#!/bin/sh
# The study: every pattern of howto.json over the 10,000 test pictures; rows and report go to DIR.
#
#     samples/study/run.sh build/vitrun [DIR [OPTION]...]
#
# Options go to vitrun sweep, such as --device cpu or --shard 2/8. Without the test set (Debian's
# dataset-fashion-mnist) the 200 pictures of samples/images are used, and said so. Started again, it
# goes on where it was stopped.
set -eu
vitrun=${1:?usage: samples/study/run.sh VITRUN [DIR [OPTION]...]}
out=${2:-study}
shift
[ $# -eq 0 ] || shift
data=fashion_test
if [ ! -d $data ] && ! weights_tools/fashion_folders.py --split test -o $data; then
    data=samples/images
    echo "no test set: the study runs on the 200 pictures of $data" >&2
fi
exec "$vitrun" sweep --weights samples/fashion_vit.safetensors --data $data --spec samples/study/howto.json \
    --out "$out" "$@"
