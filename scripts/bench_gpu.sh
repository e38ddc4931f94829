#!/usr/bin/env bash
# Decode attention of one layer on a GPU, ours and PyTorch's dense kernels, into a folder:
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

points=(--synthetic llama-2-7b,llama-3-8b,mistral-7b,qwen2.5-7b
  --context 4096,16384,65536,262144 --batch 1,4,16)
if $quick; then
  points=(--synthetic llama-2-7b,llama-3-8b --context 4096,65536 --batch 1)
fi

mkdir -p "$folder"
"$palu" bench attention --device cuda "${points[@]}" \
  --forms dense,16@50,4@50,3@50,2@50,16@25/75,4@25/75 \
  --format md,csv,json --out "$folder/attention" --plot "$folder/attention.svg"
if ! "$python" -c 'import torch' 2>/dev/null; then
  echo "$python has no PyTorch: no baselines" >&2
  exit 0
fi
baselines=$repository/bench/baselines.py
"$python" "$baselines" "$folder/attention.json" --out "$folder/merged.json" >"$folder/merged.md"
"$python" "$baselines" "$folder/merged.json" --print-only --format csv >"$folder/merged.csv"
cat "$folder/merged.md"
