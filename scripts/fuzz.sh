#!/usr/bin/env bash
# Lets libFuzzer search with one target, or with each of them in turn:
#   scripts/fuzz.sh TARGET|all SECONDS [OPTION…]     options are libFuzzer's, such as -runs=1000
#   scripts/fuzz.sh install                          only makes sure that cargo-fuzz is there
# What it learns stays in fuzz/target/corpus; what is committed in fuzz/corpus is only read.
# A failure is in fuzz/target/artifacts, and the last lines say how to run it again.
# The exit status is 0 if nothing was found; `canary` must fail, so there it is the other way round.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_FUZZ_VERSION=0.13.2
# cargo-fuzz wants flags that a stable compiler has and hides.
export RUSTC_BOOTSTRAP=1
# There is no unsafe code for the address sanitizer to watch, and without it twice as much is tried.
build=(--sanitizer none)

if [ "${1:-}" != install ] && [ $# -lt 2 ]; then
  sed -n '2,7s/^# //p' "$0"
  exit 2
fi

if ! cargo fuzz --version 2>/dev/null | grep -qx "cargo-fuzz $CARGO_FUZZ_VERSION"; then
  cargo install cargo-fuzz --version "$CARGO_FUZZ_VERSION" --locked
fi
if [ "$1" = install ]; then
  exit
fi
target="$1" seconds="$2"
shift 2

fuzz() {
  local name="$1" corpus="fuzz/target/corpus/$1" artifacts="fuzz/target/artifacts/$1/" status=0
  shift
  mkdir -p "$corpus" "$artifacts" "fuzz/corpus/$name"
  # An input that takes a gigabyte, or ten seconds, is a finding as well.
  cargo fuzz run "${build[@]}" "$name" "$corpus" "fuzz/corpus/$name" -- \
    -max_total_time="$seconds" -artifact_prefix="$artifacts" -print_final_stats=1 \
    -rss_limit_mb=1024 -timeout=10 -max_len=2048 "$@" || status=$?
  return "$status"
}

run() {
  local name="$1" log="fuzz/target/$1.log" status=0
  shift
  mkdir -p fuzz/target
  fuzz "$name" "$@" >"$log" 2>&1 || status=$?
  if [ "$name" = canary ]; then
    if [ "$status" -ne 0 ] && grep -q 'the canary is dead' "$log"; then
      echo "canary: dead, as it must be"
      return 0
    fi
    tail -30 "$log"
    echo "canary: alive after $seconds s: failures are not noticed"
    return 1
  fi
  if [ "$status" -ne 0 ]; then
    tail -60 "$log"
    local input
    input="$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)"
    echo "$name: failed (exit status $status, all of it in $log)"
    if [ -n "$input" ]; then
      echo "again:   RUSTC_BOOTSTRAP=1 cargo fuzz run ${build[*]} $name $input"
      echo "smaller: RUSTC_BOOTSTRAP=1 cargo fuzz tmin ${build[*]} $name $input"
    fi
    return "$status"
  fi
  echo "$name: nothing found in $seconds s," \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs"
}

if [ "$target" != all ]; then
  run "$target" "$@"
  exit
fi
for path in fuzz/fuzz_targets/*.rs; do
  run "$(basename "$path" .rs)" "$@"
done
