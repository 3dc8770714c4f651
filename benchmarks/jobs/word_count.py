"""The word count of the benchmark: `str.split`, a group, a count."""

import mr


@mr.job
def word_count(input: str, output: str):
    """Count the words of a text."""
    return (
        mr.read_text(input).flat_map(str.split, names="word").group_by("word").agg(n=mr.count()).write_parquet(output)
    )


if __name__ == "__main__":
    word_count.main()
