#!/usr/bin/env bash
# Runs clusters of real processes under faults for SECONDS (default 60), with schedules drawn from
# SEED (default: drawn), and lets the checkers judge what clients saw. A failure prints its seed.
# As root, disks lose power too (FUSE, loop devices, ext4); mounts are gone when this ends.
set -euo pipefail
cd "$(dirname "$0")/.."

export VSR_CHAOS_SECONDS="${1:-60}"
export VSR_CHAOS_SEED="${2:-$((RANDOM * 32768 + RANDOM))}"
printf 'chaos: scripts/chaos.sh %s %s\n' "$VSR_CHAOS_SECONDS" "$VSR_CHAOS_SEED"

run=(cargo test --locked --test chaos -- --nocapture clusters_survive_chaos)
if [ "$(id -u)" -eq 0 ] && unshare --mount true 2>/dev/null; then
  run=(unshare --mount "${run[@]}")
fi
exec "${run[@]}"
