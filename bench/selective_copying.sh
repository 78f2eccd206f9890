#!/usr/bin/env bash
# selective_copying.sh - which members of the family can choose what to remember: 16 tokens that
# stand anywhere in 4,096 rows of noise, learned in 256 rows first. Writes selective_copying.md,
# selective_copying.svg. experiment.sh says what can be set; here too:
#
#   SHORT LONG             rows of the first and of the second part (256 4096)
#   MEMORISE SYMBOLS       tokens to remember, size of the alphabet (16 16)
#   LONG_BUDGET            of the second part (BUDGET is of the first; 8s and 16s)
#   MEMBERS EXAMPLES       mamba lru s4 s4d linear; of each test (512)
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
budget=${BUDGET:-8s} long_budget=${LONG_BUDGET:-16s}
recipe=$recipes/tasks/selective_copying.json

part() { # part NAME short|long ROWS BUDGET [MORE...]: trains and tests at this length
  local name=$1.$2 budget=$4
  local task=(--set "length=$3" --set "memorise=${MEMORISE:-16}" --set "symbols=${SYMBOLS:-16}")
  shift 4
  train "$name" "$budget" --recipe "$recipe" "${task[@]}" "${sets[@]}" "$@"
  measure "$name" --task selective_copying "${task[@]}" --examples "${EXAMPLES:-512}"
}

for name in ${MEMBERS:-mamba lru s4 s4d linear}; do
  more=()
  [ "$name" != linear ] || more=(heads=2)
  member "$name" learning_rate=0.002 eval_batches=2 "${more[@]}"
  part "$name" short "${SHORT:-256}" "$budget"
  [ -e "$runs/$name.short/info.json" ] || continue
  # Made anew, the first part makes what began with it outdated.
  [ ! "$runs/$name.short/info.json" -nt "$runs/$name.long/wanted" ] || rm -rf "$runs/$name.long"
  part "$name" long "${LONG:-4096}" "$long_budget" --init "$runs/$name.short/model"
done
report
