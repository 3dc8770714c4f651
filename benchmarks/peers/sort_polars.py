"""Sort of lines in Polars, lazy and streaming."""

import sys

import polars as pl


def main(output: str, cores: str, text: str) -> None:
    pl.scan_lines(text).sort("line").sink_csv(output, include_header=False, quote_style="never")


if __name__ == "__main__":
    main(*sys.argv[1:])
