#!/usr/bin/env bash
# Decode and prefill attention of one layer on a GPU, ours and PyTorch's dense kernels, into a folder:
#   scripts/bench_gpu.sh FOLDER            four models, all contexts and batches
#   scripts/bench_gpu.sh --quick FOLDER    two models, two contexts, batch 1
# PALU is the program (build/cuda/palu), PYTHON the interpreter with PyTorch (python3); without
# PyTorch there are no baselines.
set -euo pipefail

usage() {
  sed -n '2,6s/^# \{0,1\}//p' "$0"
  exit "$1"
}

repository=$(cd "$(dirname "$0")/.." && pwd)
palu=${PALU:-$repository/build/cuda/palu}
python=${PYTHON:-python3}
quick=false
folder=
for argument in "$@"; do
  case $argument in
    --quick) quick=true ;;
    -h | --help) usage 0 ;;
    -*) usage 1 >&2 ;;
    *)
      [[ -z $folder ]] || usage 1 >&2
      folder=$argument
      ;;
  esac
done
[[ -n $folder ]] || usage 1 >&2

models=llama-2-7b,llama-3-8b,mistral-7b,qwen2.5-7b
points=(--context 4096,16384,65536,262144 --batch 1,4,16)
prompts=2048,8192,32768
if $quick; then
  models=llama-2-7b,llama-3-8b
  points=(--context 4096,65536 --batch 1)
  prompts=2048,8192
fi

mkdir -p "$folder"
"$palu" bench attention --device cuda --synthetic "$models" "${points[@]}" \
  --forms dense,16@50,4@50,3@50,2@50,16@25/75,4@25/75 \
  --format md,csv,json --out "$folder/attention" --plot "$folder/attention.svg"
"$palu" bench attention --device cuda --synthetic "$models" --prefill --context "$prompts" --batch 1 \
  --format md,csv,json --out "$folder/prefill"
if ! "$python" -c 'import torch' 2>/dev/null; then
  echo "$python has no PyTorch: no baselines" >&2
  exit 0
fi
baselines=$repository/bench/baselines.py
for part in attention prefill; do
  merged=$folder/merged-$part
  "$python" "$baselines" "$folder/$part.json" --out "$merged.json" >"$merged.md"
  "$python" "$baselines" "$merged.json" --print-only --format csv >"$merged.csv"
  cat "$merged.md"
done
