"""Sort of lines in Daft, which writes no text: batches go to the file as they come."""

import sys
from pathlib import Path

import daft


def main(output: str, cores: str, text: str) -> None:
    daft.set_runner_native(num_threads=int(cores))
    lines = daft.read_text(text)
    Path(output).mkdir(exist_ok=True)
    column = lines.column_names[0]
    with open(f"{output}/sorted.txt", "wb") as out:
        for batch in lines.select(column).sort(column).to_arrow_iter():
            out.write(b"\n".join(value.encode() for value in batch.column(0).to_pylist()) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
