"""Find the lines that match a pattern, with the place of each.

Input: text files, folders or globs (compressed ones too). Output: rows of path (str), offset (int: the byte, in the
decompressed file, at which the line begins), text (str: the line), in order of path and offset.

    mr submit jobs/grep.py --pattern 'ERROR|FATAL' --input logs/ --output found
"""

from __future__ import annotations

from typing import Any

import polars as pl

import mr


@mr.job
def grep(pattern: str, input: list[str], output: str, *, ignore_case: bool = False, invert: bool = False) -> Any:
    """Find the lines that match a pattern, with the place of each.

    PATTERN is a regular expression of Rust's `regex` library (no look-around, no back-references: it takes time
    linear in the line, whatever the pattern). `--invert` gives the lines that do not match.
    """
    matches = pl.col("text").str.contains(f"(?i){pattern}" if ignore_case else pattern)
    return (
        mr.read_text(input, include_path=True, include_offset=True)
        .filter(~matches if invert else matches)
        .select("path", "offset", "text")
        .sort("path", "offset")
        .write_parquet(output)
    )


if __name__ == "__main__":
    grep.main()
