#!/bin/bash
# Word count with the tools of a shell: words to lines, counted in awk's table; tab-separated text instead of Parquet.
set -euo pipefail
tr -s ' ' '\n' < "$3" | awk '{ n[$0]++ } END { for (w in n) print w "\t" n[w] }' > "$1"
