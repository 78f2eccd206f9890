#!/usr/bin/env bash
# reach.sh - how the gradient fades with distance before anything is learned: models of one layer at
# their initial values, on tinyshakespeare. Writes reach.svg; experiment.sh says what can be set,
# here too LENGTH WINDOWS WIDTH (1024 32 64).
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
text=$data/text/tinyshakespeare.txt length=${LENGTH:-1024} windows=${WINDOWS:-32}
need "$text"

# fresh NAME KEY=VALUE...: a model as it begins, and its gradient k tokens back beside that of one
fresh() {
  local name=$1 to=$runs/$1 sets=()
  shift
  for s in "$@"; do sets+=(--set "$s"); done
  rm -rf "$to"
  "$krait" train --data "$text" --out "$to" --set layers=1 --set "width=${WIDTH:-64}" \
    "${sets[@]}" --set steps=1 --set warmup=0 --set learning_rate=0 --set min_learning_rate=0 \
    --set held_out=0 --set checkpoint_every=0 >"$to.log" 2>&1 ||
    stop "$name: $(tail -n 1 "$to.log")"
  "$krait" reach --model "$to" --data "$text" --length "$length" --windows "$windows" --json |
    sed 's/.*"back": *\([0-9]*\), *"gradient": *\([-0-9.e+]*\).*/\1 \2/' |
    awk '$1 == 1 { one = $2 } $1 >= 1 { print $1, $2 / one }' >"$to.tsv"
}

fresh rnn mixer=rnn cell=tanh
fresh lstm mixer=rnn cell=lstm
fresh lru mixer=lru r_min=0.9 r_max=0.999
fresh s4d mixer=s4d
fresh mamba mixer=mamba1
python3 "$here/plot.py" "$page/reach.svg" --log-x --log-y --y-range 1e-8:3 \
  --title "How far back the gradient reaches before training" \
  --subtitle "one layer of width ${WIDTH:-64} at its initial values; root mean square over \
$windows windows" \
  --x "tokens between the loss and the input" \
  --y "|d loss(T) / d x(t)|, relative to one token back" \
  "RNN (tanh)=$runs/rnn.tsv" "LSTM=$runs/lstm.tsv" "LRU=$runs/lru.tsv" "S4D=$runs/s4d.tsv" \
  "Mamba=$runs/mamba.tsv"
