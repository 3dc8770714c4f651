"""Word count in mrjob on as many processes as there are cores; tab-separated text instead of Parquet."""

import sys

from mrjob.job import MRJob


class Tabs:
    """word<tab>n, without the quotes of JSON."""

    def write(self, word: str, n: int) -> bytes:
        return f"{word}\t{n}".encode()


class WordCount(MRJob):
    OUTPUT_PROTOCOL = Tabs

    def mapper(self, _, line):
        for word in line.split():
            yield word, 1

    def combiner(self, word, ns):
        yield word, sum(ns)

    def reducer(self, word, ns):
        yield word, sum(ns)


def main(output: str, cores: str, text: str) -> None:
    job = WordCount([text, "-r", "local", "--num-cores", cores, "--output-dir", output, "--quiet"])
    with job.make_runner() as runner:
        runner.run()


if __name__ == "__main__":
    # mrjob starts this file again for its tasks, with options of its own
    main(*sys.argv[1:]) if len(sys.argv) == 4 and not sys.argv[1].startswith("-") else WordCount.run()
