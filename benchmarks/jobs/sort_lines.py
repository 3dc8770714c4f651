"""The sort of the benchmark: lines by their bytes."""

import mr


@mr.job
def sort_lines(input: str, output: str):
    """Sort the lines of a text."""
    return mr.read_text(input).sort("value").write_text(output)


if __name__ == "__main__":
    sort_lines.main()
