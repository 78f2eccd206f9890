#!/usr/bin/env bash
# hippo.sh - a signal being remembered by HiPPO (examples/hippo_memory.c): what a few numbers give
# back of the past, at four moments and by four measures. Writes hippo_moments.svg and
# hippo_measures.svg; experiment.sh says what can be set, here too NUMBERS and WINDOW (12 500).
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
numbers=${NUMBERS:-12} window=${WINDOW:-500}
memory=$(dirname "$krait")/hippo_memory
built "$memory"

# recalled FILE MOMENT COLUMN: two columns for plot.py
recalled() { awk -v m="$2" -v c="$3" '$1 == m { print $2, $c }' "$1"; }

"$memory" legs "$numbers" >"$runs/legs" 2>"$runs/legs.log"
for measure in legt fourier; do
  "$memory" "$measure" "$numbers" "$window" >"$runs/$measure" 2>"$runs/$measure.log"
done
"$memory" lagt "$numbers" "$((window / 5))" >"$runs/lagt" 2>"$runs/lagt.log"
recalled "$runs/legs" 1000 3 >"$runs/signal.tsv"
for moment in 250 500 750 1000; do
  recalled "$runs/legs" "$moment" 4 >"$runs/moment$moment.tsv"
done
for measure in legs legt fourier lagt; do
  recalled "$runs/$measure" 1000 4 >"$runs/$measure.tsv"
done
python3 "$here/plot.py" "$page/hippo_moments.svg" --height 360 --x-range=0:1000 --y-range=-2:2 \
  --title "A signal, as $numbers numbers remember it (HiPPO-LegS)" \
  --subtitle "what they give back of all the past, at four moments of the same run" \
  --x "sample" --y "signal" "signal=$runs/signal.tsv:wide:5" \
  "after 250=$runs/moment250.tsv:line:3" "after 500=$runs/moment500.tsv:line:2" \
  "after 750=$runs/moment750.tsv:line:1" "after 1,000=$runs/moment1000.tsv:line:0"
python3 "$here/plot.py" "$page/hippo_measures.svg" --height 360 --x-range=0:1000 --y-range=-2:2 \
  --title "The same $numbers numbers by other measures of the past" \
  --subtitle "what is given back after 1,000 samples; windows of $window samples, fading over \
$((window / 5))" \
  --x "sample" --y "signal" "signal=$runs/signal.tsv:wide:5" \
  "LegS: all alike=$runs/legs.tsv:line:0" "LegT: a window=$runs/legt.tsv:line:1" \
  "Fourier: a window=$runs/fourier.tsv:line:2" "LagT: fading=$runs/lagt.tsv:line:3"
