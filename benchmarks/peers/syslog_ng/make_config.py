"""Print syslog-ng's configuration: `python make_config.py INPUT URL CONCURRENCY`.

A body-prefix() is no template, so each store and type has an http() destination of its own, all
of them behind one filter each.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

_HEAD = """\
@version: {version}

options {{
  # Nothing of its own is logged, and nothing is looked up.
  stats-freq(0);
  use-dns(no);
  dns-cache(no);
  threaded(yes);
  # Lines longer than this would be cut off.
  log-msg-size(1048576);
}};

source lines {{
  # At the end of standard input it stops, after what it has read was sent.
  stdin(
    flags(no-parse, no-hostname)
    log-fetch-limit(10000)
    log-iw-size({window})
  );
}};

# The lines go out as they are; only the store and type are looked for.
parser lane {{
  json-parser(extract-prefix("") prefix("."));
}};
"""

_DESTINATION = """
destination lane_{number} {{
  http(
    url("{url}/extensions/ecomm/v2/sync/messages")
    method("PUT")
    headers("Content-Type: application/json")
    body-prefix('{{"storeId":"{store}","objectType":"{type}","messages":[')
    body("$MSG")
    delimiter(",")
    body-suffix("]}}")
    batch-lines(200)
    # In milliseconds: a lane that nothing more comes to is sent after so long.
    batch-timeout(1000)
    workers({workers})
    # With flow control, and room for all that the source may have under way, nothing is dropped.
    log-fifo-size({window})
    persist-name("lane_{number}")
  );
}};
"""


def main() -> None:
    """Read the lanes from the input, and print."""
    path, url, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with Path(path).open("rb") as file:
        lanes = sorted({(m["storeId"], m["objectType"]) for m in map(json.loads, file)})
    found = subprocess.run(["syslog-ng", "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"^Config version: (\S+)", found.stdout, re.MULTILINE)
    window = 100_000
    workers = max(1, concurrency // len(lanes))
    print(_HEAD.format(version=version[1] if version else "3.35", window=window))
    for number, (store, object_type) in enumerate(lanes):
        print(
            _DESTINATION.format(
                number=number,
                url=url,
                store=store,
                type=object_type,
                workers=workers,
                window=window,
            )
        )
    print("log {\n  source(lines);\n  parser(lane);")
    for number, (store, object_type) in enumerate(lanes):
        word = "if" if number == 0 else "elif"
        test = f'"${{.storeId}}" eq "{store}" and "${{.objectType}}" eq "{object_type}"'
        print(f"  {word} ({test}) {{ destination(lane_{number}); }}", end="")
        print(";" if number == len(lanes) - 1 else "")
    print("  flags(flow-control);\n};")


if __name__ == "__main__":
    main()
