"""Sort of lines in Ray Data, which writes no text: batches go to the file as they come."""

import sys
from pathlib import Path

import ray


def main(output: str, cores: str, text: str) -> None:
    ray.init(address="local", num_cpus=int(cores), include_dashboard=False, log_to_driver=False)
    Path(output).mkdir(exist_ok=True)
    with open(f"{output}/sorted.txt", "wb") as out:
        for batch in ray.data.read_text(text).sort("text").iter_batches(batch_size=100_000, batch_format="pyarrow"):
            out.write(b"\n".join(line.encode() for line in batch["text"].to_pylist()) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
