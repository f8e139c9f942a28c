#!/bin/sh
# Includes point one way. A folder may include itself and those listed for it.
set -eu
bad=0
allow() { # folder, extended regex of what it may include
    for f in $(find "$1" -maxdepth "${3:-1}" -name '*.[ch]' -o -maxdepth "${3:-1}" -name '*.cu' -o -maxdepth "${3:-1}" -name '*.cuh'); do
        found=$(grep -nE '^#include "' "$f" | grep -vE "#include \"($2)" || true)
        [ -z "$found" ] || { echo "$f: includes what it may not: $found"; bad=1; }
    done
}
allow kernels 'kernels/' 2
allow weights_tools 'weights_tools/|kernels/'
allow models 'models/|weights_tools/|kernels/'
allow engine/image 'engine/image/|weights_tools/|kernels/'
allow engine/masks 'engine/masks/|engine/image/|weights_tools/|kernels/'
allow engine 'engine/[a-z_]*\.h|engine/masks/|engine/image/|models/|weights_tools/|kernels/'
# json_where.h: line, column and path of things in a JSON text; it knows nothing of masks.
# json_decode.h, blame.h: shortages of the machine told from bad files.
allow engine/experiments 'engine/vitrun.h|engine/experiments/|engine/masks/json_where.h|weights_tools/(json_decode|blame).h'
allow engine/cli 'engine/vitrun.h|engine/experiments/|engine/cli/'
allow engine/install 'engine/cli/|engine/install/'
[ "$bad" -eq 0 ] && echo "ok layers: includes point one way"
exit "$bad"
