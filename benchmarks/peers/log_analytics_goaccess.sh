#!/bin/bash
# A report of an access log by GoAccess, which computes more than the three tables, in JSON; 1.7 knows one thread only.
set -euo pipefail
goaccess "$3" --log-format=COMBINED --no-global-config --max-items=100 --no-progress --output="$1.json"
mv "$1.json" "$1"
