#!/usr/bin/env bash
# mqar.sh - associative recall against the size of the state: two layers of width 64, whose states
# alone differ. Trained on any number of pairs up to PAIRS, tested on several; of a size's rates the
# one that did best on the examples of validation counts. Writes mqar.md, mqar.svg. experiment.sh
# says what can be set; here too:
#
#   LENGTH PAIRS SYMBOLS   of the task (64 16 128); rows that ask nothing are 0
#   TESTS EXAMPLES         pairs of the tests, examples of each (4 8 16, 1000)
#   BATCH                  of training (128)
#   RATES                  learning rates (0.01; of mamba 0.003, too)
#   MEMBERS SIZES          linear lru mamba mamba2; of the states (four each, as below)
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
budget=${BUDGET:-17s} pairs=${PAIRS:-16}
task=(--task mqar --set "length=${LENGTH:-64}" --set "symbols=${SYMBOLS:-128}" --set fill=false)

sizes_of() { # sizes_of NAME: a setting for each size of its state
  case $1 in
    linear) echo key=4 key=8 key=16 key=32 ;; # of two heads
    lru) echo state=64 state=256 state=1024 state=2048 ;;
    mamba | mamba2) echo state=2 state=4 state=8 state=16 ;;
  esac
}
rates_of() { # rates_of NAME
  case $1 in
    mamba) echo 0.003 0.01 ;;
    *) echo 0.01 ;;
  esac
}

# Linear attention has Mamba's block here, with its convolution and its inner width.
declare -A own=(
  [linear]="block=mamba feature=identity rope=false heads=2 value=128"
  [mamba2]="head_dim=32"
)
for name in ${MEMBERS:-linear lru mamba mamba2}; do
  for size in ${SIZES:-$(sizes_of "$name")}; do
    for rate in ${RATES:-$(rates_of "$name")}; do
      run=$name.${size#*=}.$rate
      # shellcheck disable=SC2086
      member "$name" ${own[$name]:-} "$size" layers=2 width=64 tied=false "batch=${BATCH:-128}" \
        weight_decay=0 beta2=0.98 "learning_rate=$rate" eval_batches=8
      train "$run" "$budget" "${task[@]}" --set "pairs=$pairs" --set fewest=1 "${sets[@]}"
      for n in ${TESTS:-4 8 16}; do
        measure "$run/$n" "${task[@]}" --set "pairs=$n" --examples "${EXAMPLES:-1000}"
      done
    done
  done
done
report
