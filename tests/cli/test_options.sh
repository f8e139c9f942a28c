#!/bin/sh
# Options: names, values, help, and what is said of those that are wrong.
. tests/cli/lib.sh

succeeds --help
says 'usage: vitrun --weights PATH'
for command in run info mask check bench tune; do
    grep -q "^  $command " "$tmp/out" || fail "--help does not list $command"
done
for command in run info mask check bench; do
    succeeds $command --help
    says '--weights PATH'
    [ ! -s "$tmp/err" ] || fail "help on standard error"
done
succeeds tune --help
says '--head-dim N'
grep -q -e '--weights' "$tmp/out" && fail "tune takes no model"
ok "help of the program and of every command"

succeeds --version
grep -qE '^vitrun [0-9]+\.[0-9]+\.[0-9]+$' "$tmp/out" || fail "no version"
ok "version"

refuses 2 'vitrun --help'
refuses 2 'did you mean --weights?' --weigths "$vit" "$image"
refuses 2 'did you mean --topk?' --weights "$vit" --topkk=3 "$image"
refuses 2 'unknown option --zzzzzzzz' --weights "$vit" --zzzzzzzz "$image"
refuses 2 'unknown option -j' --weights "$vit" -j "$image"
refuses 2 'did you mean info?' inof --weights "$vit"
refuses 2 'unknown command "frobnicate"' frobnicate
refuses 2 '--grid is no option of vitrun run' --weights "$vit" --grid 3x3 "$image"
refuses 2 '--weights is no option of vitrun tune' tune --weights "$vit"
refuses 2 '--head-dim is no option of vitrun info' info --weights "$vit" --head-dim 64
ok "unknown names get the nearest known one"

refuses 2 '--weights is missing' "$image"
refuses 2 '--weights is missing' info
refuses 2 '--weights is missing' check "$image"
refuses 2 '--weights is missing' bench
refuses 2 'no IMAGE' --weights "$vit"
refuses 2 'its value is missing' --weights
refuses 2 'found the option --json' "$image" --weights --json
refuses 2 'takes no value' --weights "$vit" --json=yes "$image"
refuses 2 'takes no arguments' info --weights "$vit" "$image"
refuses 2 'takes no arguments' tune "$image"
refuses 2 '--head-dim: bad value' tune --head-dim 0
refuses 2 '--head-dim: bad value' tune --head-dim 1025
refuses 2 'fp16' tune --device cpu --dtype fp16
refuses 2 'expected auto, cpu, cuda' tune --device toaster
refuses 2 'takes one IMAGE' check --weights "$vit" "$image" "$image"
ok "missing and superfluous arguments"

for bad in --topk=0 --topk=-1 --topk=5x --topk= '--topk= 5' --topk=99999999999 --threads=0 \
    --threads=two --batch=0 --batch=1,2 --batch=1e3 --max-memory=0 --max-memory=5Q \
    --max-memory=-1 --max-memory=1.2.3 --img-size=0 --img-size=32x --img-size=x32 --img-size=3x3x3 \
    --density-threshold=1.1 --density-threshold=-0.1 --density-threshold=nan \
    --density-threshold=0x1 --density-threshold=1e-999 --density-threshold=0.3x --dispatch=fast \
    --features=x.txt --mask= --weights=; do
    refuses 2 "${bad%%=*}: bad value" --weights "$vit" "$image" "$bad"
done
ok "values out of range or with trailing characters"

for bad in --mask='axial_2d(' --mask='nonsense()' --mask='7: dense' --kernel=fastest \
    --dtype=fp99 --set=novalue --set=no_such_field=1 --arch=vit_of_nobody; do
    refuses 2 '' --weights "$vit" "$image" "$bad"
done
ok "values that only the library can judge"

refuses 2 '--logits needs --json' --weights "$vit" --logits "$image"
refuses 2 '--tokens needs --features' --weights "$vit" --tokens "$image"
refuses 2 'read only once' --weights "$vit" - -
refuses 2 '--weights PATH or --grid' mask --mask 'axial_2d()'
refuses 2 'not both' mask --weights "$vit" --grid 8x8 --mask 'axial_2d()'
refuses 2 '--mask-config FILE or --mask' mask --grid 8x8
refuses 2 '--prefix needs --grid' mask --weights "$vit" --prefix 1 --mask 'axial_2d()'
refuses 2 '--query needs --png' mask --grid 8x8 --query 1 --mask 'axial_2d()'
refuses 2 'no such token' mask --grid 8x8 --png "$tmp/none" --query 64 --mask 'axial_2d()'
[ ! -e "$tmp/none" ] || fail "a folder was made for nothing"
refuses 2 '--grid needs --attention' bench --weights "$vit" --grid 8x8
refuses 2 'takes no --weights' bench --attention 2x65x16 --weights "$vit"
for option in --set=depth=1 --img-size=32 --config=x.json --arch=vit_tiny_patch16_224; do
    refuses 2 "takes no ${option%%=*}" bench --attention 2x65x16 $option
    refuses 2 "takes no ${option%%=*}" mask --grid 8x8 --mask 'axial_2d()' $option
done
refuses 2 'takes no --device' mask --grid 8x8 --mask 'axial_2d()' --device cpu
refuses 2 '--save: bad value' mask --grid 8x8 --mask 'axial_2d()' --save "$tmp/masks.npy"
[ ! -e "$tmp/masks.npy" ] || fail "a file was written in a format that was not asked for"
refuses 2 'vitrun: check needs one IMAGE' check --weights "$vit"
for bad in 2x65 2x65x16x1 x65x16 2x65x 0x65x16 axbxc; do
    refuses 2 '--attention: bad value' bench --attention $bad
done
ok "combinations that make no sense"

run --weights "$vit" --topk 2 "$image" && cp "$tmp/out" "$tmp/apart"
run --topk=2 "$image" --weights="$vit" && cp "$tmp/out" "$tmp/joined"
run run --weights "$vit" --topk 3 --topk 2 -- "$image" && cp "$tmp/out" "$tmp/named"
[ -s "$tmp/apart" ] || fail "no result"
cmp -s "$tmp/apart" "$tmp/joined" || fail "--name value and --name=value differ"
cmp -s "$tmp/apart" "$tmp/named" || fail "vitrun run and vitrun differ"
cp "$image" "$tmp/-dash.png"
cd "$tmp" || exit 1
run --weights "$vit" -- -dash.png
[ "$status" -eq 0 ] || fail "-- does not end the options"
ok "spellings: apart, joined, named command, --"
