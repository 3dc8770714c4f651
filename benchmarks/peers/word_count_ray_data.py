"""Word count in Ray Data: words by batches, counted in each before they are grouped."""

import sys

import pyarrow as pa
import pyarrow.compute as pc
import ray


def count(batch: pa.Table) -> pa.Table:
    words = pc.list_flatten(pc.split_pattern(batch["text"].combine_chunks(), " "))
    counted = words.value_counts()
    return pa.table({"word": counted.field("values"), "n": counted.field("counts")})


def main(output: str, cores: str, text: str) -> None:
    ray.init(address="local", num_cpus=int(cores), include_dashboard=False, log_to_driver=False)
    counted = ray.data.read_text(text).map_batches(count, batch_format="pyarrow")
    counted.groupby("word").sum("n").rename_columns({"sum(n)": "n"}).write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
