#!/usr/bin/env bash
# mqar.sh - associative recall against the size of the state: two layers of width 64, whose states
# alone differ. Writes mqar.md, mqar.svg. experiment.sh says what can be set; here too:
#
#   LENGTH PAIRS SYMBOLS   of the task (128 16 1024)
#   BATCH EXAMPLES         of training and of the test (256 1000)
#   RATE                   learning rate (0.01)
#   MEMBERS SIZES          linear lru mamba mamba2; of the states (four each, as below)
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
budget=${BUDGET:-8s}
task=(--task mqar --set "length=${LENGTH:-128}" --set "pairs=${PAIRS:-16}"
  --set "symbols=${SYMBOLS:-1024}")

sizes_of() { # sizes_of NAME: a setting for each size of its state
  case $1 in
    linear) echo key=16 key=32 key=64 key=128 ;; # of two heads
    lru) echo state=64 state=256 state=1024 state=2048 ;;
    mamba) echo state=4 state=16 state=64 state=256 ;;
    mamba2) echo state=8 state=16 state=32 state=64 ;;
  esac
}

for name in ${MEMBERS:-linear lru mamba mamba2}; do
  for size in ${SIZES:-$(sizes_of "$name")}; do
    more=()
    [ "$name" != linear ] || more=(heads=2)
    [ "$name" != mamba2 ] || more=(head_dim=32)
    member "$name" "$size" "${more[@]}" layers=2 width=64 "batch=${BATCH:-256}" weight_decay=0 \
      "learning_rate=${RATE:-0.01}" eval_batches=2
    train "$name.${size#*=}" "$budget" "${task[@]}" "${sets[@]}"
    measure "$name.${size#*=}" "${task[@]}" --examples "${EXAMPLES:-1000}"
  done
done
report
