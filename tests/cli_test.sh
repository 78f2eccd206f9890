#!/bin/sh
# cli_test.sh - the program as a user meets it: exit codes, one clear line for each mistake, JSON
# that is JSON, the road from training to text. Usage: cli_test.sh KRAIT JSON_LINES SOURCE_DIR
set -u
krait=$1 json_lines=$2 source=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
checks=0 failures=0

bad() {
    failures=$((failures + 1))
    echo "FAIL: $*"
    sed 's/^/    out: /' out | head -5
    sed 's/^/    err: /' err | head -5
}

# expect STATUS ARGUMENT...: runs krait; stdout in ./out, stderr in ./err.
expect() {
    want=$1
    shift
    checks=$((checks + 1))
    "$krait" "$@" >out 2>err </dev/null
    got=$?
    [ $got -eq "$want" ] || bad "krait $* ended with $got, not $want"
}

# refused STATUS WORDS ARGUMENT...: ends so; nothing on stdout, one line with WORDS on stderr.
refused() {
    status=$1 words=$2
    shift 2
    expect "$status" "$@"
    [ ! -s out ] || bad "krait $* wrote to stdout"
    [ "$(wc -l <err)" -eq 1 ] || bad "krait $*: not one line"
    grep -q -- "$words" err || bad "krait $*: nothing about '$words'"
}

json() { "$json_lines" "$@" <out 2>err || bad "JSON with keys $*"; }
has() { grep -q -- "$1" out || bad "no '$1' on stdout"; }
# Is COMMAND... true?
holds() {
    checks=$((checks + 1))
    "$@" || bad "$*"
}

# ---- help and usage
expect 0
has 'krait generate --model demo'
expect 0 --help
expect 0 --version
has '^krait [0-9]'
for command in $(sed -n 's/COMMAND(\(.*\))/\1/p' "$source/cli/commands.def"); do
    expect 0 "$command" --help
    for section in SYNOPSIS DESCRIPTION OPTIONS 'EXIT STATUS' EXAMPLE; do has "^$section"; done
    holds test "$(awk 'length > 120' out | wc -l)" -eq 0
    refused 2 'unknown option --nonsense' "$command" --nonsense
    mv out page
    expect 0 help "$command"
done
refused 2 'did you mean generate' genrate
refused 2 'unknown command' xyzzyxyzzy
refused 2 'did you mean --temperature' generate --temprature 1
refused 2 'whole number' generate --tokens many
refused 2 'from 0 to' generate --tokens -1
refused 2 'needs a value' generate --model
refused 2 'model is empty; M is needed' generate --model '' --prompt x
refused 2 'out is empty' train --data text --out ''
refused 2 'tokens is empty; a whole number' generate --model x --prompt y --tokens ''
refused 2 'an argument is empty' info ''
refused 2 'an empty text is no command' ''
refused 2 'listops exclude each other' train --task mqar --out x --set task=listops
refused 2 'given twice' generate --seed 1 --seed 2
refused 2 'takes no value' generate --json=yes
refused 2 'one of keep' generate --dtype f8
refused 2 'argument too many' eval stray
refused 2 '--model M is needed' generate --prompt x
refused 2 'prompt is needed' generate --model x
refused 2 'no effect with --temperature 0' generate --model x --prompt y --temperature 0 --top-k 3
refused 2 'takes one prompt' generate --model x --prompt y --prompt z --state-out s
refused 2 'come from one place' generate --model x --prompt y --prompts z
refused 2 'no effect with --json' generate --model x --prompt y --echo --json
refused 2 'text is needed' eval --model x
refused 2 'exclude each other' eval --model x --data y --token-ids z
refused 2 'give --json too' eval --model x --data y --per-token
refused 2 'text is needed' train --out x
refused 2 '--out DIR is needed' train --data x
refused 2 'without --train' tokenize --tokenizer bytes --vocabulary 300
refused 2 'no effect with --train' tokenize --train --count
refused 2 'without --model' selftest --token-ids x
refused 2 'model is needed' info
refused 2 'folder to write' convert x

# ---- train
awk 'BEGIN { for (i = 0; i < 400; i++) print "line " i ": and it was so, and it was good." }' >text
shape='--set layers=2 --set width=32 --set batch=4 --set window=32 --set warmup=2'
# shellcheck disable=SC2086
expect 0 train --data text --out run $shape --set steps=6 --set checkpoint_every=3
has 'the model is in run'
has 'loss in nats a token by step'
holds grep -q 'held-out loss' err
holds test -f run/config.json -a -f run/model.safetensors
# shellcheck disable=SC2086
expect 0 train --data text --out run-json $shape --set steps=3 --json
json event step steps
refused 1 'already holds a run' train --data text --out run
refused 1 'cannot be opened\|No such file\|cannot be read' train --data missing --out run2
refused 1 'learning_rat' train --data text --out run2 --set learning_rat=1
: >empty
expect 1 train --data empty --out run3

# ---- devices: a name that is none, and a machine whose GPUs are hidden or that has none
refused 2 'cpu, cuda or cuda:N' train --data text --out run4 --device tpu
refused 2 'cpu, cuda or cuda:N' eval --model run --data text --device cuda:9x
refused 2 'cpu, cuda or cuda:N' generate --model run --prompt x --device ''
refused 2 'threads has no effect' eval --model run --data text --device cuda --threads 2
refused 2 'threads has no effect' generate --model run --prompt x --device cuda:0 --threads 1
for share in 0/4 5/4 1 1/0 a/b 1/2x -1/2 /; do
    refused 2 'K/N' selftest --only rmsnorm --share "$share"
done
expect 0 selftest --only rmsnorm --share 2/3
refused 2 'threads has no effect' selftest --device cuda --threads 1
refused 1 'f32 or bf16' generate --model run --prompt x --device cuda --dtype f16
refused 2 'f32 or bf16' bench decode --device cuda --dtype f16
refused 1 'precision=f32' train --data text --out run4 --set precision=bf16
CUDA_VISIBLE_DEVICES='' && export CUDA_VISIBLE_DEVICES
refused 1 'GPU\|without CUDA' train --data text --out run4 --device cuda
refused 1 'GPU\|without CUDA' generate --model run --prompt x --device cuda
unset CUDA_VISIBLE_DEVICES
holds test ! -e run4/log.jsonl

# ---- info, convert
refused 1 'no system in continuous time' generate --model run --prompt x --rate 2
refused 1 'the mixer mamba1 has none' generate --model run --prompt x --state-type bf16
refused 2 'rate' eval --model run --data text --rate 0
expect 0 info run
has 'parameters'
expect 0 info run --json
json architecture layers parameters hash
expect 0 info run --tensors --json
json tensor dtype shape
refused 1 'missing' info missing
refused 1 'text: no model: give a folder' info text
expect 0 info run
holds test "$(grep -c ',  ' out)" -eq 0 # no line of settings goes on behind its indentation
holds test "$(awk 'length > 80' out | wc -l)" -eq 0
expect 0 info demo
holds test "$(grep -c ',  ' out)" -eq 0
refused 2 '--shard-mb has no effect' convert run run-shards --layout state_spaces --shard-mb 1
refused 1 'what its weights do not tell' convert run run-set --set rate=softplus
holds test ! -e run-set
expect 0 convert run run-bf16 --dtype bf16
expect 0 info run-bf16
has 'bf16'
expect 0 convert run-bf16 run-back --dtype f32
expect 0 info run-back

# ---- generate
expect 0 generate --model run --prompt 'line ' --tokens 20 --temperature 0
cp out greedy
holds test -s greedy
expect 0 generate --model run --prompt 'line ' --tokens 20 --temperature 0 --echo
has '^line '
expect 0 generate --model run --prompt '' --tokens 3
expect 0 generate --model run --prompt 'line ' --tokens 20 --temperature 0 --json
json doc ids text
printf 'line \nand it\n\nso\n' >prompts
expect 0 generate --model run --prompts prompts --tokens 20 --seed 3 --json
json doc ids text
cp out together
holds test "$(wc -l <together)" -eq 4
for i in 1 2 3 4; do # each prompt alone, with its own seed, gives its line
    sed -n "${i}p" prompts >one
    expect 0 generate --model run --prompts one --tokens 20 --seed $((2 + i)) --json
    sed -n "${i}p" together | sed 's/"doc":[0-9]*/"doc":0/' >want
    holds cmp out want
done
echo '108 105 110 101 32' >ids
expect 0 generate --model run --token-ids ids --tokens 20 --temperature 0
holds cmp out greedy
expect 0 generate --model run --prompt 'line ' --tokens 8 --temperature 0 --state-out state --json
cp out first
expect 0 generate --model run --state-in state --tokens 12 --temperature 0 --json
cat first out | sed 's/.*"ids":\[\([^]]*\)\].*/\1/' | paste -sd, - >halves
expect 0 generate --model run --prompt 'line ' --tokens 20 --temperature 0 --json
sed 's/.*"ids":\[\([^]]*\)\].*/\1/' out >whole
holds cmp halves whole
refused 1 'another model' generate --model run-bf16 --state-in state
refused 1 'cannot be written' generate --model run --prompt x --tokens 20 --state-out gone/state
head -c 100 state >cut
refused 1 'truncated' generate --model run --state-in cut
refused 1 'not a state file' generate --model run --state-in text
refused 1 'cannot be opened' generate --model run --state-in missing
refused 1 'cannot be opened' generate --model run --prompts missing
refused 1 'no prompt' generate --model run --prompts empty
echo '5 x' >wrong
refused 1 'line 1: x is no token id' generate --model run --token-ids wrong
echo '5 999' >wrong
refused 1 'token id 999' generate --model run --token-ids wrong
refused 1 'missing' generate --model missing --prompt x
mkdir broken && cp run/* broken 2>/dev/null
head -c 3000 run/model.safetensors >broken/model.safetensors
refused 1 'broken/model.safetensors' generate --model broken --prompt x
echo '{"model_type": "perceptron"}' >broken/config.json
refused 1 'perceptron' info broken
checks=$((checks + 1))
"$krait" generate --model run --prompt line --tokens 3000 --ignore-end 2>err | head -c 10 >out
[ ! -s err ] || bad 'a reader that has seen enough: something was said'
if [ -e /dev/full ]; then
    checks=$((checks + 1))
    "$krait" info run >/dev/full 2>err && bad 'a full disk was not noticed'
    : >out
    grep -q 'No space' err || bad 'a full disk is not the reason given'
fi

# ---- eval
expect 0 eval --model run --data text --max-tokens 2000
has 'bits per byte'
expect 0 eval --model run --data text --max-tokens 2000 --json
json loss perplexity bits_per_byte loss_by_position
printf '1 2 3 4\n5 6\n' >ids
expect 0 eval --model run --token-ids ids --json
has '"bytes":null' # ids stand for no text
has '"bits_per_byte":null'
expect 0 eval --model run --token-ids ids --per-token --json
json doc pos id logprob
holds test "$(wc -l <out)" -eq 4
refused 1 'missing' eval --model run --data missing

# ---- reach
expect 0 reach --model run --data text --length 64 --windows 2
has 'mean of 2 windows of 64 tokens'
expect 0 reach --model run --data text --length 8 --json
json back gradient
holds test "$(wc -l <out)" -eq 8
expect 0 reach --model run --token-ids ids --length 5 --json
refused 1 'need 7 tokens, there are 6' reach --model run --token-ids ids --length 6

# ---- a model without a tokenizer reads and gives ids
printf "1,2, 3\n4 5 6 7\n" >ids
odd=$source/tests/data/mamba_odd
expect 0 generate --model "$odd" --token-ids ids --tokens 9 --temperature 0 --ignore-end --json
json doc ids text
sed "s/.*\"ids\":.\([0-9,]*\).*/\1/" out | tr , " " >want
expect 0 generate --model "$odd" --token-ids ids --tokens 9 --temperature 0 --ignore-end
grep "^[0-9]" out >got
holds cmp got want
echo "1 2 3" >ids
set -- --temperature 0 --ignore-end
expect 0 generate --model "$odd" --token-ids ids --tokens 4 --state-out ids-state "$@"
cp out first
expect 0 generate --model "$odd" --state-in ids-state --tokens 5 "$@"
holds test "$(cat first out | paste -sd " " -)" = "$(head -n 1 want)"
refused 1 "no tokenizer.json" generate --model "$odd" --prompt x
refused 1 "not a folder" convert "$odd" ids
mkfifo pipe && { cat pipe >piped & } # what is no regular file is written, not replaced
expect 0 generate --model "$odd" --token-ids ids --tokens 4 --state-out pipe "$@"
wait
holds test -p pipe
holds cmp piped ids-state
expect 0 selftest --model "$source/tests/data/mamba_statespaces" --token-ids ids --json
has "backbone.embedding.weight" # by its name in the file
expect 0 info "$source/tests/data/mamba_statespaces" --tensors
has "backbone.embedding.weight"

# ---- little memory: an answer or a refusal, never a crash
# From where the program can be loaded at all, for that is the system's to tell.
least=40
until (ulimit -v $((least * 1000)) && exec "$krait" --version) >out 2>err || [ $least -gt 999 ]; do
    least=$((least + 4))
done
[ $least -le 999 ] && mores='0 3 6 9 12 15 24' || mores= # a sanitizer needs terabytes
for more in $mores; do
    megabytes=$((least + more))
    checks=$((checks + 1))
    (ulimit -v $((megabytes * 1000)) && export OMP_NUM_THREADS=1 &&
        exec "$krait" eval --model "$odd" --token-ids ids --json) >out 2>err
    [ $? -lt 128 ] || bad "a crash with $megabytes MB of address space"
done

# ---- tokenize
expect 0 tokenize --tokenizer bytes --text Hello
has '^72 101 108 108 111$'
cp out ids
expect 0 tokenize --tokenizer bytes --decode ids
has '^Hello$'
expect 0 tokenize --tokenizer bytes text --count
expect 0 tokenize --tokenizer bytes text --lines --json
json doc ids
holds test "$(wc -l <out)" -eq 400
expect 0 tokenize --train --vocabulary 300 --out tokenizer.json text
expect 0 tokenize --tokenizer tokenizer.json --text 'and it was so'
cp out ids
expect 0 tokenize --tokenizer tokenizer.json --decode --token-ids ids --json
json doc text
has 'and it was so'
refused 1 'tokenizer' tokenize --tokenizer missing.json --text x

# ---- selftest
expect 0 selftest --only rmsnorm
has 'rows passed, 0 failed'
expect 0 selftest --only rmsnorm --json
json op passed error tolerance
expect 1 selftest --only rmsnorm --corrupt rmsnorm
has FAIL
refused 1 'to corrupt rmsnorm has no effect' selftest --only linear --corrupt rmsnorm
: >no-ids
refused 1 'no document has two tokens' selftest --model run --token-ids no-ids
echo '72 101 108 108 111 32 116 104 101 114 101' >ids
expect 0 selftest --model run --token-ids ids --json
holds grep -q step_error out
holds grep -q grad_norm out

# ---- task
expect 0 task
has '^listops: '
expect 0 task --json
json task about settings
expect 0 task induction_heads --print --set length=20 --count 2
has '=>'
has '^answers  19:'
expect 0 task pathfinder --print
has 'answer   '
expect 0 task adding --print --json
json example values numbers
expect 0 task mqar --print --json
json example ids targets
refused 1 'there is no task "copying"' task copying --print
refused 1 'task mqar has no setting "keys"' task mqar --print --set keys=3
refused 1 'must be even and at least 4' task mqar --print --set length=9
refused 2 'needs the name' task --print
refused 2 'needs the name' task --set length=9
refused 2 '--seed has no effect without --print' task mqar --seed 3
refused 2 '--part has no effect without --print' task mqar --part test
refused 1 'must be even and at least 4' task mqar --set length=9
refused 1 'give --data of aclImdb/{train,test}' task imdb --set bytes=9
expect 0 task mqar --set length=96
has '^rows         up to 96$'
expect 0 task mqar --set length=96 --json
json task settings vocabulary rows
has '"rows":96'
expect 0 task imdb
mkfifo fifo
refused 1 'fifo: not a regular file' task dna --data fifo
printf '>a\nACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGTACGT\n' >bases.fa
expect 0 task dna --data bases.fa --set length=2 --json
json task settings rows answers

expect 0 train --task listops --out classes --set depth=3 --set shortest=4 --set longest=20 \
    --set width=8 --set layers=1 --set steps=3 --set warmup=1 --set batch=2 --set eval_batches=2
has 'of answers right'
expect 0 eval --model classes --task listops --set depth=3 --set shortest=4 --set longest=20 \
    --examples 5
has '^answers right   .*% of 5'
expect 0 eval --model classes --task listops --set depth=3 --set shortest=4 --set longest=20 \
    --examples 2 --answers --json
json example row right said logprob
refused 1 'the model tells 10' eval --model classes --task mqar --set symbols=16
refused 1 'no effect with a task' train --task mqar --out none --set window=9
refused 1 'token ids have no effect with a task' train --task mqar --out none --token-ids ids
refused 2 'needs --task with a sequence task' eval --model run --data text --answers
refused 1 'classifies sequences' generate --model classes --token-ids ids

# ---- the example of every page works as it stands (with the small model, and a text that is here)
PATH=$(dirname "$krait"):$PATH
mkdir shop && cp -r run shop/demo
for command in train generate eval task tokenize convert info selftest help; do
    "$krait" $command --help | sed '1,/^EXAMPLE/d' |
        sed "s,/usr/share/common-licenses/GPL-3,$dir/text," >example
    checks=$((checks + 1))
    (cd shop && sh -e ../example >../out 2>../err </dev/null) || bad "the example of $command"
done

# ---- bench
refused 2 'nearest is machine' bench machin
refused 2 'batch has no effect on machine' bench machine --batch 4
refused 2 '^krait bench: dtype has no effect on scan' bench scan --dtype bf16
refused 2 'state-type has no effect on decode' bench decode --state-type bf16
refused 2 'state-type has no effect on any part on the CPU' bench --state-type bf16
expect 0 bench machine --runs 1 --json
json name unit median minimum maximum
expect 0 train --task tones --out tones --set length=64 --set width=8 --set layers=1 \
    --set steps=1 --set warmup=1 --set batch=2 --set eval_batches=1
refused 1 'classifies sequences, it has no next token' generate --model tones --prompt x
refused 1 'classifies sequences, it has no next token' reach --model tones --data text
for part in prefill decode; do
    refused 1 'classifies sequences, it has no next token' bench $part --model tones --runs 1
done
refused 1 'classifies sequences, it has no next token' bench prefill --model classes --runs 1

# ---- the examples that are built beside the program
bin=$(dirname "$krait")
if [ -x "$bin/fork_state" ]; then
    checks=$((checks + 2))
    "$bin/generate_text" run 'line ' >out 2>err || bad generate_text
    "$bin/fork_state" run 'line ' forked >out 2>err || bad fork_state
    has '^each fork copied'
    expect 0 generate --model run --state-in forked --prompt 'and' --tokens 5
fi

echo "$checks checks, $failures failed"
[ $failures -eq 0 ]
