#!/usr/bin/env bash
# Measures the GPU path on this machine: parity with the CPU, the table of goals, and a profile. Needs the binary alone;
# PyTorch (peers), ncu (profile) and nvidia-smi (name, utilisation) are used where they are there.
#
# usage: benches/gpu.sh [OUT]              results in OUT (default ./gpu-results): gpu.json, gpu.md, logs
#   VIDENSE=PATH     the binary            (default: beside the pack, else target/release/vidense)
#   DEVICE=cuda:0    the device            DTYPE=bf16  the precision of the table
#   SIZE=7b          the language model    RUNS=5      runs of which medians are taken
#   LIMIT=300        the seconds that one command may take
#   QUICK=1          without PyTorch and the profile
#   SMOKE=1          small steps alone, on any device: tests of this script
#
# Exit code: 0 when parity holds and every goal is met, 1 when one is missed or could not be measured, 2 without a binary.
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-gpu-results}; mkdir -p "$out/logs"; out=$(cd "$out" && pwd)
device=${DEVICE:-cuda:0}; if [ "$device" = cuda ]; then device=cuda:0; fi
dtype=${DTYPE:-bf16} size=${SIZE:-7b} runs=${RUNS:-5} smoke=${SMOKE:-} limit=${LIMIT:-300} quick=${QUICK:-${SMOKE:-}}

# ---- the binary and its libraries -----------------------------------------------------------------------------------
for candidate in "${VIDENSE:-}" "$here/vidense" "$here/target/release/vidense"; do
  if [ -n "$candidate" ] && [ -x "$candidate" ]; then vidense=$candidate; break; fi
done
[ -n "${vidense:-}" ] || { echo "no binary; hint: VIDENSE=PATH, or cargo build --release --features cuda" >&2; exit 2; }
if [ -d "$here/libs" ]; then export LD_LIBRARY_PATH="$here/libs:${LD_LIBRARY_PATH:-}"; fi
case $device in cuda*)
  # CUDA's own libraries: of a toolkit, or of the wheels that PyTorch comes with.
  for dir in /usr/local/cuda*/lib64 /usr/local/cuda*/compat \
    $(python3 -c 'import site; print(*(p + "/nvidia/*/lib" for p in site.getsitepackages() + [site.getusersitepackages()]))' 2>/dev/null); do
    if [ -d "$dir" ]; then LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}:$dir"; fi
  done
  export LD_LIBRARY_PATH
  # A binary that was linked where no driver was does not name the driver's library.
  if ! ldd "$vidense" 2>/dev/null | grep -q libcuda.so; then
    driver=$(ldconfig -p 2>/dev/null | awk '/libcuda\.so\.1 / {print $NF; exit}')
    export LD_PRELOAD="${driver:-libcuda.so.1}${LD_PRELOAD:+:$LD_PRELOAD}"
  fi ;;
esac

# ---- small tools: no program is needed for JSON ---------------------------------------------------------------------
number() { sed -n "s/.*\"$2\":\(-\{0,1\}[0-9][0-9.eE+-]*\).*/\1/p" "$1" 2>/dev/null | head -1; }
ids() { sed -n 's/.*"token_ids":\[\([0-9,]*\)\].*/\1/p' "$1" 2>/dev/null | tr ',\n' '  '; }
calc() { awk "BEGIN { x = $1; printf \"%.6g\", x }" 2>/dev/null; }
run() { # NAME COMMAND...: standard output to OUT/logs/NAME.json, standard error beside it
  local name=$1; shift
  timeout "$limit" "$@" > "$out/logs/$name.json" 2> "$out/logs/$name.err" || { echo "  $name failed: $(tail -1 "$out/logs/$name.err")" >&2; return 1; }
}
rows=$out/logs/rows.tsv; : > "$rows"
row() { # NAME VALUE UNIT COMPARISON GOAL COMMAND: a row of the table; without a value it is unmeasured
  local verdict=unmeasured
  if [ -n "$2" ]; then verdict=$(awk "BEGIN { print ($2 $4 $5) ? \"met\" : \"missed\" }"); fi
  printf '%s\t%s\t%s\t%s %s\t%s\t%s\n' "$1" "${2:--}" "$3" "$4" "$5" "$verdict" "$6" >> "$rows"
  printf '  %-62s %12s %-10s goal %s %s: %s\n' "$1" "${2:--}" "$3" "$4" "$5" "$verdict"
}

smi() { nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits -i "${device##*:}" 2>/dev/null | head -1; }
name=$(smi name); driver=$(smi driver_version)
echo "binary $vidense ($("$vidense" --version 2>&1 | head -1)), device $device ${name:+($name, driver $driver)}"

# ---- 1. the first run on a machine ----------------------------------------------------------------------------------
clip=$here/samples/three_shapes.mp4
echo "first run, with an empty cache of the driver"
rm -rf "$out/logs/driver-cache"
for turn in first second; do
  run "$turn-run" env CUDA_CACHE_PATH="$out/logs/driver-cache" "$vidense" ask "$clip" "What color is the circle?" --device "$device" --json
done
cold=$(number "$out/logs/first-run.json" total) warm=$(number "$out/logs/second-run.json" total)
told=$(grep -c "compiling kernels" "$out/logs/first-run.err")
echo "  first ${cold:--} ms, second ${warm:--} ms, told: $told line(s)"

# ---- 2. parity ------------------------------------------------------------------------------------------------------
echo "parity: ids on $device against those of the CPU in f32"
cases=$out/logs/cases.tsv; : > "$cases"
for dir in "$here"/tests/golden/checkpoints/*/; do
  if [ -n "$smoke" ] && [ "$(basename "$dir")" != hf-4 ]; then continue; fi
  if [ -f "$dir/config.json" ]; then printf '%s\t%s\t%s\n' "$(basename "$dir")" "$here/tests/golden/checkpoints/frames" "--model $dir --temporal concat --frames 3" >> "$cases"; fi
done
for temporal in max_pool concat temporal_mean spatial_mean spatial_temporal_mean temporal_mean_before_projector pool_2d:height=4,width=4 adaptive_3d:frames=2,height=4,width=4 slowfast ts_llava evs; do
  if [ -n "$smoke" ] && [ $temporal != max_pool ]; then continue; fi
  printf 'mini-%s\t%s\t%s\n' "${temporal%%:*}" "$clip" "--temporal $temporal --frames 4" >> "$cases"
done
compare() { # A B: equal ids at the same places, and all of A's
  awk -v a="$1" -v b="$2" 'BEGIN { n = split(a, x, " "); split(b, y, " "); for (i = 1; i <= n; i++) same += x[i] == y[i]; print same + 0, n }'
}
parity() { # NAME DTYPE FLAGS: compares all cases, sets `same`, `total`, `repeated`, and counts those without an answer
  same=0 total=0 repeated=1
  local case video flags cpu gpu again counts
  while IFS=$'\t' read -r case video flags; do
    # shellcheck disable=SC2086
    ask() { run "$1" "$vidense" ask "$video" "How many objects are there?" --json --max-new-tokens 32 $flags "${@:2}"; }
    while [ "$(jobs -rp | wc -l)" -ge "$together" ]; do wait -n; done
    # shellcheck disable=SC2086
    {
      [ -s "$out/logs/$case-cpu$3.json" ] || ask "$case-cpu$3" --device cpu --dtype f32 $3
      ask "$case-$1" --device "$device" --dtype "$2" $3; ask "$case-$1-again" --device "$device" --dtype "$2" $3
    } &
  done < "$cases"
  wait
  while IFS=$'\t' read -r case video flags; do
    cpu=$(ids "$out/logs/$case-cpu$3.json") gpu=$(ids "$out/logs/$case-$1.json") again=$(ids "$out/logs/$case-$1-again.json")
    counts=$(compare "$cpu" "$gpu"); same=$((same + ${counts% *})) total=$((total + ${counts#* }))
    [ "$gpu" = "$again" ] || repeated=0
    if [ -z "$cpu" ] || [ -z "$gpu" ]; then unanswered=$((unanswered + 1)); fi
    if [ "${counts% *}" != "${counts#* }" ]; then echo "    $case in $1: ${counts% *} of ${counts#* } ids" ; fi
  done < "$cases"
}
# Next ids after the same prefixes: after the first different id, two answers differ by their own history.
agreement() { # DTYPE: sets `next_same` and `next_total`, to 0 if a case fails
  next_same=0 next_total=0
  local case video flags
  while IFS=$'\t' read -r case video flags; do
    # shellcheck disable=SC2086
    run "agreement-$case-$1" "$vidense" bench agreement "$video" "How many objects are there?" --device "$device" --dtype "$1" -- $flags || { next_same=0 next_total=0; return; }
    next_same=$((next_same + $(number "$out/logs/agreement-$case-$1.json" equal_next_ids) + 0))
    next_total=$((next_total + $(number "$out/logs/agreement-$case-$1.json" tokens) + 0))
  done < "$cases"
}
together=$(($(nproc) / 2)); if [ $together -lt 1 ]; then together=1; fi; if [ $together -gt 8 ]; then together=8; fi
rm -f "$out"/logs/*-cpu*.json
all_repeated=1 unanswered=0
for precision in f32 f16 bf16; do
  if [ -n "$smoke" ] && [ $precision = bf16 ]; then continue; fi
  parity "$precision" "$precision" ""
  share=$(calc "$total ? 100 * $same / $total : 0"); [ "$repeated" = 1 ] || all_repeated=0
  goal=95; [ $precision = f32 ] && goal=100
  row "ids equal to the CPU's f32, $precision ($total ids)" "$share" "%" ">=" $goal "ask --device $device --dtype $precision"
  agreement "$precision"
  row "next ids equal after the same prefix, $precision ($next_total ids)" "$(calc "$next_total ? 100 * $next_same / $next_total : 0")" "%" ">=" $goal "bench agreement --device $device --dtype $precision"
done
if [ -z "$smoke" ]; then
  # The CPU would keep keys and values in f16 beside quantized weights.
  parity quant f32 "--quant q8_0 --kv-dtype f32"
  row "ids equal to the CPU's, f32, --quant q8_0 --kv-dtype f32 ($total ids)" "$(calc "$total ? 100 * $same / $total : 0")" "%" ">=" 95 "ask --quant q8_0 --kv-dtype f32 --device $device"
fi
row "cases without an answer, of $(wc -l < "$cases")" "$unanswered" "" "==" 0 "ask, on both"
row "the same run twice gives the same ids" "$all_repeated" "" "==" 1 "each ask above, twice"

# ---- 3. the table ---------------------------------------------------------------------------------------------------
bench() { local name=$1; shift; run "$name" "$vidense" bench "$@" --device "$device" --dtype "$dtype" --runs "$runs"; }
if [ -z "$smoke" ]; then
  echo "networks, $dtype, random weights of full size, $runs runs"
  bench siglip tower --tower siglip-so400m --batch 8; bench clip tower --tower clip-l-336 --batch 8
  bench siglip-32 tower --tower siglip-so400m --batch 32
  # The first steps of decoding run operation by operation and are recorded: of 256 tokens they are a small share.
  bench one llm --size "$size" --tokens 2960 --new 256 --sequences 1
  # Attention without the tiled kernels: by products and one softmax.
  VIDENSE_CUDA_ATTENTION=products bench siglip-products tower --tower siglip-so400m --batch 8
  VIDENSE_CUDA_ATTENTION=products bench one-products llm --size "$size" --tokens 2960 --new 2 --sequences 1
  bench many llm --size "$size" --tokens 600 --new 256 --sequences 32
  bench drawn llm --size "$size" --tokens 600 --new 256 --sequences 32 --top-k 50
  bench shared llm --size "$size" --tokens 2932 --shared 2912 --new 64 --sequences 64
fi
ms() { local seconds; seconds=$(number "$1" "$2"); [ -z "$seconds" ] || calc "1000 * $seconds"; }
log=$out/logs
row "SigLIP-so400m, 8 frames together" "$(ms "$log/siglip.json" seconds_per_frame)" "ms/frame" "<=" 1.9 "bench tower --tower siglip-so400m --batch 8"
row "CLIP-L/336, 8 frames together" "$(ms "$log/clip.json" seconds_per_frame)" "ms/frame" "<=" 1.0 "bench tower --tower clip-l-336 --batch 8"
row "prefill of 2,960 positions, $size" "$(ms "$log/one.json" prefill_seconds)" "ms" "<=" 85 "bench llm --size $size --tokens 2960 --new 256"
row "decode, one sequence after 2,960, $size" "$(number "$log/one.json" decode_tokens_per_second)" "tokens/s" ">=" 200 "bench llm --size $size --tokens 2960 --new 256"
row "decode, 32 sequences after 600, $size" "$(number "$log/many.json" decode_tokens_per_second)" "tokens/s" ">=" 2500 "bench llm --size $size --tokens 600 --new 256 --sequences 32"
row "decode, 64 sequences that share 2,912 positions, $size" "$(number "$log/shared.json" decode_tokens_per_second)" "tokens/s" ">=" 2500 "bench llm --size $size --tokens 2932 --shared 2912 --new 64 --sequences 64"
row "decode, 32 sequences after 600, drawn from the best 50, $size" "$(number "$log/drawn.json" decode_tokens_per_second)" "tokens/s" ">=" 2500 "bench llm --size $size --tokens 600 --new 256 --sequences 32 --top-k 50"
ratio() { local a b; a=$(number "$1" "$3"); b=$(number "$2" "$3"); if [ -n "$a" ] && [ -n "$b" ]; then calc "$a / $b"; fi; }
if [ -z "$smoke" ]; then
  row "SigLIP-so400m, tiled attention against products" "$(ratio "$log/siglip.json" "$log/siglip-products.json" seconds_per_frame)" "x" "<=" 1 "VIDENSE_CUDA_ATTENTION=products bench tower --tower siglip-so400m --batch 8"
  row "prefill of 2,960, tiled attention against products" "$(ratio "$log/one.json" "$log/one-products.json" prefill_seconds)" "x" "<=" 1 "VIDENSE_CUDA_ATTENTION=products bench llm --size $size --tokens 2960 --new 2"
fi
peak=$(number "$log/one.json" device_memory_peak_bytes) kv=$(number "$log/one.json" kv_peak_bytes)
weights=$(calc "2 * 6738415616"); [ "$size" = 7b ] || weights=$(calc "2 * 1100048384")
over=""; if [ -n "$peak" ] && [ -n "$kv" ]; then over=$(calc "($peak - $kv) / $weights"); fi
row "memory beside keys and values, of the weights', $size" "$over" "x" "<=" 1.15 "bench llm --size $size --tokens 2960 --new 256"

# ---- 4. whole commands ----------------------------------------------------------------------------------------------
echo "whole commands"
videos=24 model=$out/checkpoint pipeline=$out/logs/pipeline.yaml
if [ -n "$smoke" ]; then videos=2 model=vidense-mini; fi
run videos "$vidense" world --seed 5 --videos $videos --out "$out/videos"
if [ -z "$smoke" ] && [ ! -f "$model/config.json" ]; then run checkpoint "$vidense" bench checkpoint "$model" --size "$size" --device "$device"; fi
printf 'model: "%s"\nsample:\n  uniform:\n    frames: 8\ngenerate:\n  max_new_tokens: 32\n' "$model" > "$pipeline"
questions() { local i; for ((i = 1; i <= $1; i++)); do printf -- '-q\nWhat happens in part %d of the video?\n' "$i"; done; }
for n in 1 8; do
  mapfile -t asked < <(questions $n)
  if [ -n "$smoke" ] && [ $n = 8 ]; then continue; fi
  run "run-$n" "$vidense" bench run "$pipeline" "$out"/videos/*.mp4 "${asked[@]}" --device "$device" --dtype "$dtype" --runs "$([ -n "$smoke" ] && echo 1 || echo 3)"
  # Once more, for the table of stages and the card's own view.
  nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits -i "${device##*:}" -lms 100 > "$log/busy-$n.txt" 2>/dev/null & sampler=$!
  run "stages-$n" "$vidense" run "$pipeline" "$out"/videos/*.mp4 "${asked[@]}" --set device="$device" --set dtype="$dtype" --json --timings
  kill $sampler 2>/dev/null; wait $sampler 2>/dev/null
done
wall() { sed -n 's/^wall \([0-9.]*\) s;.*/\1/p' "$log/stages-$1.err" 2>/dev/null; }
busy=$(awk '$1 > 0 { print $1 }' "$log/busy-1.txt" 2>/dev/null | sort -n | awk '{ x[NR] = $1 } END { if (NR) print x[int((NR + 1) / 2)] }')
stage=$(sed -n 's/.*the bottleneck is \([a-z]*\).*/\1/p' "$log/stages-1.err" 2>/dev/null)
if [ -z "$smoke" ]; then
  row "run: $videos videos x 1 question x 32 tokens" "$(number "$log/run-1.json" seconds)" "s" "<=" 4 "bench run PIPELINE VIDEO... -q QUESTION"
  row "run: $videos videos x 1 question x 32 tokens, once the model is loaded" "$(wall 1)" "s" "<=" 4 "run PIPELINE VIDEO... -q QUESTION --timings"
  row "run: the GPU is busy (median while it is used; busy stage: ${stage:--})" "$busy" "%" ">=" 80 "nvidia-smi beside run --timings"
  tokens=$(number "$log/run-8.json" answer_tokens) seconds=$(wall 8) rate=""
  if [ -n "$tokens" ] && [ -n "$seconds" ]; then rate=$(calc "$tokens / $seconds"); fi
  row "run: $videos videos x 8 questions x 32 tokens, once the model is loaded" "$rate" "tokens/s" ">=" 2000 "run PIPELINE VIDEO... -q ... (8) --timings"
  row "run: $videos videos x 8 questions x 32 tokens" "$(number "$log/run-8.json" tokens_per_second)" "tokens/s" ">=" 2000 "bench run PIPELINE VIDEO... -q ... (8)"
else
  row "run: $videos videos x 1 question, smoke" "$(number "$log/run-1.json" seconds)" "s" "<=" 3600 "bench run PIPELINE VIDEO... -q QUESTION"
fi

# ---- 5. peers and profile, where there is a program for them --------------------------------------------------------
if [ -z "$quick" ] && python3 -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null; then
  echo "peers: PyTorch on the same card"; run peers python3 "$here/benches/gpu_peers.py"
fi
if [ -z "$quick" ] && command -v ncu > /dev/null; then
  echo "profile"
  for part in "tower --tower siglip-so400m --batch 8" "llm --size $size --tokens 2960 --new 2"; do
    # shellcheck disable=SC2086
    run "profile-${part%% *}" ncu --clock-control none --metrics gpu__time_duration.sum --csv --page raw \
      "$vidense" bench $part --device "$device" --dtype "$dtype" --runs 1
    # Share of the time and number of launches by kernel.
    awk -F'","' '/^"ID"/ { for (i = 1; i <= NF; i++) { if ($i ~ /Kernel Name/) k = i; if ($i ~ /gpu__time_duration/) t = i } next }
      k && t { gsub(/["\,]/, "", $t); time[$k] += $t; count[$k]++; all += $t }
      END { for (name in time) printf "%6.2f %%\t%d\t%s\n", 100 * time[name] / all, count[name], name }' \
      "$log/profile-${part%% *}.json" | sort -rn > "$out/profile-${part%% *}.txt"
    head -12 "$out/profile-${part%% *}.txt"
  done
fi

# ---- 6. gpu.json and gpu.md -----------------------------------------------------------------------------------------
product=$(number "$log/one.json" gemm_peak_gflops) copy=$(number "$log/one.json" copy_gb_per_second)
text() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }
{
  printf '{"device":"%s","name":"%s","driver":"%s","dtype":"%s","size":"%s","version":"%s",' "$device" "$(text "$name")" "$(text "$driver")" "$dtype" "$size" "$(text "$("$vidense" --version | head -1)")"
  printf '"gemm_peak_gflops":%s,"copy_gb_per_second":%s,"first_run_ms":%s,"second_run_ms":%s,"rows":[' "${product:-null}" "${copy:-null}" "${cold:-null}" "${warm:-null}"
  awk -F'\t' '{ gsub(/["\\]/, "\\\\&"); printf "%s{\"name\":\"%s\",\"value\":%s,\"unit\":\"%s\",\"goal\":\"%s\",\"verdict\":\"%s\",\"command\":\"%s\"}", (NR > 1 ? "," : ""), $1, ($2 == "-" ? "null" : $2), $3, $4, $5, $6 }' "$rows"
  printf ']}\n'
} > "$out/gpu.json"
{
  echo "# ${name:-$device}, $dtype, $("$vidense" --version | head -1)"; echo
  echo "Driver ${driver:--}. Limits in the same run: product $([ -n "$product" ] && calc "$product / 1000" || echo -) TFLOP/s, copy ${copy:--} GB/s. First run ${cold:--} ms, second ${warm:--} ms."; echo
  echo "| what | measured | goal | verdict | command |"; echo "|---|---|---|---|---|"
  awk -F'\t' '{ printf "| %s | %s %s | %s | %s | `%s` |\n", $1, $2, $3, $4, $5, $6 }' "$rows"
} > "$out/gpu.md"
echo "see $out/gpu.md and $out/gpu.json"
! awk -F'\t' '$5 != "met"' "$rows" | grep -vq "^$([ -n "$smoke" ] && echo '.*unmeasured' || echo 'nothing is passed over')"
