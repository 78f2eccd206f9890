#!/usr/bin/env bash
# mila.sh - what each of the six switches between linear attention and Mamba does to the loss (Han
# et al. 2024): plain linear attention on tinyshakespeare, byte by byte, with each switch alone and
# with all six. Writes mila.md, mila.svg. experiment.sh says what can be set; here too:
#
#   WIDTH LAYERS BATCH WINDOW   of the models and their training (96 2 8 256)
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
width=${WIDTH:-96} budget=${BUDGET:-600}
window=${WINDOW:-256}
text=$data/text/tinyshakespeare.txt
need "$text"
head -c 1000000 "$text" >"$runs/train.txt" # what remains is the test
tail -c +1000001 "$text" >"$runs/test.txt"

common=(--data "$runs/train.txt" --set mixer=linear_attention --set "layers=${LAYERS:-2}"
  --set "width=$width" --set "batch=${BATCH:-8}" --set "window=$window" --set held_out=0
  --set learning_rate=0.003)

# switched NAME KEY=VALUE...: the baseline but for these settings
switched() {
  local name=$1 sets=()
  shift
  for s in "$@"; do sets+=(--set "$s"); done
  train "$name" "$budget" "${common[@]}" "${sets[@]}"
  measure "$name" --data "$runs/test.txt" --context "$window"
}

keys=key=$((width / 4)) # of one head: each channel's state is as large as with four
switched baseline heads=4
switched input_gate heads=4 input_gate=true
switched forget_gate heads=4 decay=selective
switched shortcut heads=4 shortcut=true
switched no_normaliser heads=4 normaliser=false
switched one_head heads=1 "$keys"
switched block heads=4 block=mamba
switched all heads=1 "$keys" block=mamba input_gate=true decay=selective shortcut=true \
  normaliser=false feature=identity scale_queries=false
report
