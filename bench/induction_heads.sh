#!/usr/bin/env bash
# induction_heads.sh - what was learned in 256 rows, asked in up to a million: say what followed the
# special token when it stood there first. Writes induction_heads.md, induction_heads.svg. Mamba's
# rate is eight times the published one: with small rates the gates for ordinary tokens stay open a
# little, which 256 rows forgive and a million do not. It is reached slowly, in batches of 64: in
# batches of 16, after a warm-up of 5%, two of three seeds never learned. experiment.sh says what
# can be set; here too:
#
#   LENGTH LONGEST     rows of training, and of the longest test; tests are each power of two from
#                      64 on (256 1048576)
#   MEMBERS SEEDS      of the family, each trained once a seed (mamba mamba2 lru linear; 1)
#   EXAMPLES           of each test (128)
#   WARM               percent of the steps for the warm-up (30)
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
budget=${BUDGET:-20s}
warm=${WARM:-30}

for name in ${MEMBERS:-mamba mamba2 lru linear}; do
  more=(learning_rate=0.002)
  [ "$name" != mamba ] || more=(learning_rate=0.008)
  [ "$name" != linear ] || more+=(heads=2)
  [ "$name" != mamba2 ] || more+=(head_dim=32 state=32)
  for seed in ${SEEDS:-1}; do
    run=$name.$seed
    member "$name" "${more[@]}" batch=64 precision=f32 eval_batches=2 "seed=$seed"
    train "$run" "$budget" --recipe "$recipes/tasks/induction_heads.json" \
      --set "length=${LENGTH:-256}" "${sets[@]}"
    for ((rows = 64; rows <= ${LONGEST:-1048576}; rows *= 2)); do
      measure "$run/$rows" --task induction_heads --set "length=$rows" \
        --examples "${EXAMPLES:-128}"
    done
  done
done
report
