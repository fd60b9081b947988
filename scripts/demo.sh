#!/usr/bin/env bash
# The four guarantees on one terminal, with real Python and Node agents. Each
# step checks what it shows: the demo fails when a guarantee does.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=$(mktemp -d)
export TENANTD_ADDRESS="unix:$dir/tenantd.sock"
export AGENCY_OPENAI_KEY=sk-agency-openai-demo AGENCY_CARTESIA_KEY=ct-agency-demo
export ACME_ANTHROPIC_KEY=an-acme-own-key-demo BROKEN_KEY=br-broken-demo
tenantd=${TENANTD_BIN:-target/debug/tenantd}
watcher= sidecar=
cleanup() {
  [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
  [ -z "$sidecar" ] || kill "$sidecar" 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT

say() { printf '\n== %s\n' "$*"; }
python() { .venv/bin/python examples/python/agent.py --agent receptionist "$@"; }
node() { command node examples/node/agent.mjs --agent receptionist "$@"; }
expect() { # expect COUNT PATTERN FILE WHAT
  local got
  got=$(grep -cE "$2" "$3" || true)
  [ "$got" -eq "$1" ] || { echo "demo: expected $1 x $4, got $got"; exit 1; }
}
until_true() { # until_true SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || { echo "demo: gave up waiting for: $*"; exit 1; }
    sleep 0.1
  done
}
breaker_is() { "$tenantd" tenants broken --json | grep -q "\"breaker\":\"$1\""; }

"$tenantd" check examples/agency.toml
"$tenantd" serve --config examples/agency.toml --listen "$TENANTD_ADDRESS" --log-format json 2>"$dir/log" &
sidecar=$!
until_true 10 "$tenantd" snapshot
head -4 "$dir/log"
"$tenantd" watch --json >"$dir/events" &
watcher=$!

say "1. config isolation: each tenant gets its own providers and keys (shown redacted)"
python --calls 1 --hold 0.1 --session-prefix py-acme --tenant-metadata '{"tenant": "acme"}' | tee "$dir/acme"
node --calls 1 --hold 0.1 --session-prefix js-basic --tenant-metadata '{"tenant": " basic "}' | tee "$dir/basic"
node --calls 1 --hold 0.1 --session-prefix js-room --room-metadata '{"tenant": "acme"}' | tee -a "$dir/acme"
python --calls 1 --hold 0.1 --session-prefix py-none --tenant-metadata 'free text' | tee -a "$dir/basic"
expect 2 'accepted llm=anthropic/claude-sonnet key=an-a' "$dir/acme" "acme on its own key"
expect 2 'accepted llm=openai/gpt-4o-mini key=sk-a' "$dir/basic" "others on the agency's key"

say "2. resource fairness: cap 3, 8 calls at once from two languages; a sibling goes on"
python --calls 4 --concurrent --hold 3 --session-prefix py-small --tenant-metadata '{"tenant": "small"}' >"$dir/small-py" &
one=$!
node --calls 4 --concurrent --hold 3 --session-prefix js-small --tenant-metadata '{"tenant": "small"}' >"$dir/small-js" &
two=$!
until_true 10 sh -c "cat '$dir'/small-* | grep -c 'accepted\|refused' | grep -qx 8"
"$tenantd" tenants
python --calls 2 --concurrent --hold 0.1 --session-prefix py-sibling --tenant-metadata '{"tenant": "basic"}' | tee "$dir/sibling"
wait "$one" "$two"
cat "$dir"/small-py "$dir"/small-js | grep -E 'accepted|refused' | tee "$dir/small"
expect 3 ' accepted ' "$dir/small" "accepted at cap 3"
expect 5 'refused TENANT_AT_CAP limit=3' "$dir/small" "refused TENANT_AT_CAP"
expect 2 ' accepted ' "$dir/sibling" "sibling accepted"

say "3. blast radius: a failing tenant's breaker opens, half-opens and closes; acme never notices"
python --calls 4 --concurrent --hold 0.1 --fail-slot llm --session-prefix py-broken --tenant-metadata '{"tenant": "broken"}' | grep ended
node --calls 1 --hold 0.1 --session-prefix js-broken --tenant-metadata '{"tenant": "broken"}' | tee "$dir/open"
expect 1 'refused CIRCUIT_OPEN' "$dir/open" "refused CIRCUIT_OPEN"
node --calls 1 --hold 0.1 --session-prefix js-acme --tenant-metadata '{"tenant": "acme"}' | tee "$dir/unhurt"
expect 1 ' accepted ' "$dir/unhurt" "acme accepted beside an open breaker"
until_true 10 breaker_is half_open
node --calls 3 --concurrent --hold 0.5 --session-prefix js-probe --tenant-metadata '{"tenant": "broken"}' | tee "$dir/probe"
expect 2 ' accepted ' "$dir/probe" "probes accepted"
until_true 10 breaker_is closed

say "4. tagging: every event carries its tenant, agent and session"
until_true 5 grep -q breaker_closed "$dir/events"
grep -E '"kind":"(breaker_|session_rejected)' "$dir/events" |
  sed -E 's/.*"kind":"([a-z_]+)".*"sequence":([0-9]+).*"tenant":"([^"]*)".*/  \2 \1 tenant=\3/'
for kind in breaker_opened breaker_half_opened breaker_closed; do
  expect 1 "\"kind\":\"$kind\".*\"tenant\":\"broken\"" "$dir/events" "$kind of the failing tenant"
done
if grep -shE 'sk-agency-openai|an-acme-own|br-broken|ct-agency' "$dir"/*; then
  echo "demo: a key leaked"; exit 1
fi

say "the end: SIGTERM drains and exits"
kill "$watcher"; wait "$watcher" 2>/dev/null || true; watcher=
kill "$sidecar"; wait "$sidecar"; sidecar=
echo "exit 0; all four guarantees held"
