#!/usr/bin/env bash
# compute-sanitizer over the tests that need a device:
#   scripts/sanitize_gpu.sh FOLDER              memcheck and racecheck, logs into FOLDER
#   scripts/sanitize_gpu.sh FOLDER memcheck     one of them
#   scripts/sanitize_gpu.sh FOLDER patterns     what racecheck says of the patterns in
#                                               tests/sanitizer/racecheck_patterns.cu
# Several tests at a time (JOBS, 8); one that takes longer than LIMIT (600) seconds counts as failed.
# BUILD is the build's folder (build/cuda), SANITIZER the program (compute-sanitizer).
set -uo pipefail

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 1
}

repository=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD:-$repository/build/cuda}
export SANITIZER=${SANITIZER:-compute-sanitizer} LIMIT=${LIMIT:-600}
export TESTS=$build/tests/palu_cuda_tests
patterns=$build/tests/palu_racecheck_patterns
[[ $# -ge 1 && $# -le 2 && $1 != -* ]] || usage
export FOLDER=$1
mkdir -p "$FOLDER"

# Not run: tests that need no device, and those that fill the device's memory, which would take it
# from the others. racecheck: models, whose kernels the suites of ops/cuda run alone, and CudaLinear,
# whose kernels with shared memory are cuBLASLt's.
list_tests() {  # TOOL
  local suite='' line
  "$TESTS" --gtest_list_tests | while read -r line; do
    line=${line%%#*}
    if [[ $line =~ ^[A-Za-z0-9_/]+\.$ ]]; then suite=$line; continue; fi
    if [[ -n $suite ]]; then echo "$suite${line// /}"; fi
  done | grep -v -e '^SplitPlan' -e '^CudaMemory' |
    if [[ $1 == racecheck ]]; then
      grep -v -e Golden -e Budget -e Forward -e OfModels -e CompressOnDevice -e CalibrateOnDevice \
        -e '^CudaLinear'
    else
      cat
    fi
}

run_test() {  # TOOL TEST
  local log options=(--tool "$1" --error-exitcode 9 --print-limit 20)
  log=$FOLDER/$1-$(tr -c 'A-Za-z0-9\n' _ <<<"$2").log
  # Tests make some calls fail on purpose, and the program checks all of them by itself.
  if [[ $1 == memcheck ]]; then options+=(--report-api-errors no); fi
  # The frequency split hands pages on in a way that racecheck cannot follow (docs/gpu.md).
  if [[ $1 == racecheck ]]; then options+=(--kernel-regex-exclude kns=SplitDecode); fi
  local start=$SECONDS status
  timeout "$LIMIT" "$SANITIZER" "${options[@]}" "$TESTS" --gtest_filter="$2" >"$log" 2>&1
  status=$?
  printf '%-10s %-60s status %3d %4d s  %s\n' "$1" "$2" "$status" $((SECONDS - start)) \
    "$(grep -o -e 'ERROR SUMMARY: .*' -e 'RACECHECK SUMMARY: .*' "$log" | tail -1)"
  return "$status"
}
export -f run_test

run_tool() {  # TOOL
  list_tests "$1" | xargs -n 1 -P "${JOBS:-8}" bash -c 'run_test "$0" "$1" || exit 1' "$1"
}

# No pass or failure: the table of docs/gpu.md.
run_patterns() {
  local name log
  for name in $("$patterns"); do
    log=$FOLDER/pattern-${name//,/-}.log
    timeout "$LIMIT" "$SANITIZER" --tool racecheck "$patterns" "$name" >"$log" 2>&1
    printf '%-32s %s\n' "$name" "$(grep -o 'RACECHECK SUMMARY: .*' "$log")"
  done
}

failed=0
case ${2:-both} in
  both)
    run_tool memcheck || failed=1
    run_tool racecheck || failed=1
    ;;
  memcheck | racecheck) run_tool "$2" || failed=1 ;;
  patterns) run_patterns ;;
  *) usage ;;
esac
exit "$failed"
