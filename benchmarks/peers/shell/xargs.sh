#!/bin/sh
# xargs.sh INPUT URL CONCURRENCY SCRATCH: jq | split | xargs curl.
# One curl sends several files over one connection, as its manual advises for speed.
set -eu
bodies=$(mktemp -d "$4/bodies.XXXXXX")
trap 'rm -rf "$bodies"' EXIT
"$(dirname "$0")/bodies.sh" "$1" | split -l 1 -a 6 -d - "$bodies/"
export url="$2/extensions/ecomm/v2/sync/messages"
find "$bodies" -type f | sort | xargs -P "$3" -n 32 sh -c '
  files=$(IFS=,; echo "$*")
  exec curl -sS --fail --fail-early --retry 5 -H "Content-Type: application/json" -H "Expect:" -T "{$files}" "$url"
' curl
