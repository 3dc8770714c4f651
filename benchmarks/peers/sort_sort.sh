#!/bin/bash
# Sort of lines with GNU sort, by bytes (LC_ALL=C comes from the harness).
set -euo pipefail
sort --parallel="$2" -o "$1" "$3"
