"""Word count in Daft."""

import sys

import daft


def main(output: str, cores: str, text: str) -> None:
    daft.set_runner_native(num_threads=int(cores))
    lines = daft.read_text(text)
    words = lines.select(daft.col(lines.column_names[0]).split(" ").alias("word")).explode("word")
    words.groupby("word").agg(daft.col("word").count().alias("n")).write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
