#!/usr/bin/env bash
# pathfinder.sh - Pathfinder at 32 x 32, short paths before long ones: paths of 3 strokes, then of 3
# to 6, 5 to 9 and 7 to 14, each stage going on with the weights of the one before. Tested on paths
# of 6, 9 and 14 strokes; 14 is what the Long Range Arena asks. Leaves a JSON line for each test and
# prints them. experiment.sh says what can be set (BUDGET is not used); here too:
#
#   MEMBERS    of the family (s4d lru)
#   STEPS      of the four stages, 64 pictures each (700 1200 1300 3700); 100 of each warm up
#   EXAMPLES   of each test (4000)
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
read -ra steps <<<"${STEPS:-700 1200 1300 3700}"
[ "${#steps[@]}" = 4 ] || stop "STEPS are four numbers, not: ${steps[*]}"
# shellcheck disable=SC2034 # train reads it
warm_steps=100
stages=("strokes=3" "strokes=6 fewest=3" "strokes=9 fewest=5" "strokes=14 fewest=7")

for name in ${MEMBERS:-s4d lru}; do
  more=() from=()
  [ "$name" != lru ] || more=(learning_rate=0.002)
  for stage in 0 1 2 3; do
    schedule=constant
    [ $stage != 3 ] || schedule=cosine
    # weights of a stage that was made anew are other weights
    [ ! "${from[1]:-}/../info.json" -nt "$runs/$name.$stage/wanted" ] ||
      rm -rf "${runs:?}/$name.$stage"
    # shellcheck disable=SC2086
    member "$name" layers=4 "${more[@]}" ${stages[stage]} "schedule=$schedule"
    train "$name.$stage" "${steps[stage]}" --recipe "$recipes/tasks/pathfinder.json" "${from[@]}" \
      "${sets[@]}"
    [ -e "$runs/$name.$stage/info.json" ] || break
    from=(--init "$runs/$name.$stage/model")
  done
  for strokes in 6 9 14; do
    measure "$name.3/$strokes" --task pathfinder --set "strokes=$strokes" \
      --examples "${EXAMPLES:-4000}"
    [ ! -e "$runs/$name.3/$strokes.json" ] ||
      echo "$name, paths of $strokes strokes: $(numbers accuracy <"$runs/$name.3/$strokes.json")"
  done
done
exit $((failed > 0))
