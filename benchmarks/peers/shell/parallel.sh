#!/bin/sh
# parallel.sh INPUT URL CONCURRENCY: jq | GNU parallel, which starts one curl for each body.
set -eu
"$(dirname "$0")/bodies.sh" "$1" |
  parallel --will-cite --pipe -N 1 -j "$3" --halt now,fail=1 \
    curl -sS --fail --retry 5 -X PUT -H "'Content-Type: application/json'" -H "Expect:" \
    --data-binary @- "$2/extensions/ecomm/v2/sync/messages"
