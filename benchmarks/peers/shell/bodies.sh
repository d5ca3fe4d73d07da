#!/bin/sh
# bodies.sh INPUT: print the request bodies, one a line, with up to 200 messages of one store and type.
set -eu
jq -r '"\(.storeId)\t\(.objectType)\t\(del(.storeId, .objectType) | tojson)"' "$1" |
  awk -F '\t' '
    function leave(lane) {
      split(lane, name, FS)
      printf "{\"storeId\":\"%s\",\"objectType\":\"%s\",\"messages\":[%s]}\n", name[1], name[2], open[lane]
      delete open[lane]
      delete count[lane]
    }
    {
      lane = $1 FS $2
      message = substr($0, length(lane) + 2)
      open[lane] = count[lane]++ ? open[lane] "," message : message
      if (count[lane] == 200) leave(lane)
    }
    END { for (lane in open) leave(lane) }'
