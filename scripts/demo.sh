#!/usr/bin/env bash
# From a fresh clone to a result: builds palu, compresses the KV cache of the bundled 7M-parameter
# model to the default budget of bits and compares the two models on WikiText-2.
set -euo pipefail
cd "$(dirname "$0")/.."

dense=models/wiki-7m-mha
small=out/wiki-7m-mha-small
text=data/wikitext2_test.txt
palu=build/release/palu

say() {
  printf '\n== %s\n' "$1"
}

say "Build"
scripts/setup.sh
cmake --preset release >/dev/null
cmake --build --preset release --target palu_cli

say "Compress the KV cache of $dense"
mkdir -p out
$palu compress $dense $small --calib data/calib_mix.txt --force

say "Perplexity on WikiText-2: dense, then compressed"
$palu ppl $dense --text $text
$palu ppl $small --text $text

say "KV bytes per token: dense, then compressed"
$palu inspect $dense
$palu inspect $small

say "A paragraph from the compressed model"
$palu generate $small --prompt "The city was founded in" --max-tokens 96 --temperature 0.8 --seed 1

printf '\nDone in %d s.\n' "$SECONDS"
