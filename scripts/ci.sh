#!/usr/bin/env bash
# The one door: what must pass before a change counts, locally and in CI, cheapest stage first.
# Ends at the first stage that fails, with that stage's exit status.
set -euo pipefail
cd "$(dirname "$0")/.."

summary=""

stage() {
  local name="$1"
  shift
  printf '\n=== %s: %s\n' "$name" "$*"
  local start=$SECONDS status=0
  "$@" </dev/null || status=$?
  local line
  line="$(printf '%-8s %5d s' "$name" $((SECONDS - start)))"
  if [ "$status" -ne 0 ]; then
    printf '%s\n=== FAILED: %s (exit status %d)\n' "$summary" "$line" "$status"
    exit "$status"
  fi
  printf '=== %s\n' "$line"
  summary="$summary"$'\n'"    $line"
}

# The same seed is the same run, byte for byte, each time and in each build.
same_runs() {
  local seed debug release
  for seed in {1..10}; do
    debug="$(target/debug/vsr sim "$seed")" || return
    release="$(target/release/vsr sim "$seed")" || return
    if [ "$debug" != "$release" ]; then
      diff <(printf '%s\n' "$debug") <(printf '%s\n' "$release")
      return 1
    fi
    printf 'seed %s: %s\n' "$seed" "$(grep '^hash' <<<"$release")"
  done
}

stage format cargo fmt --check
stage clippy cargo clippy --all-targets --locked -- -D warnings
stage lint cargo clippy --all-targets --features defects --locked -- -D warnings
stage test cargo test --locked
stage doc env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked
stage release cargo build --release --locked
stage same same_runs
# A fixed set of seeds, and as many that no commit had before.
stage sim target/release/vsr sim --seeds 300 --from 1
stage fresh target/release/vsr sim --seeds 100 --from "$((16#$(git rev-parse HEAD | cut -c1-8)))"
# What the simulator is for: each defect on purpose is caught, and each checker catches one.
stage defects cargo test --release --features defects --test defects --locked
# A search for a few seconds by each fuzz target, and the canary must die.
stage fuzz scripts/fuzz.sh all 4
# Real processes, and what no seed decides: how they interleave.
stage chaos scripts/chaos.sh 60
# The first command of README.md, as a visitor would type it, but without a terminal.
stage demo cargo run --release --locked -- demo

printf '\n=== PASSED%s\n' "$summary"
