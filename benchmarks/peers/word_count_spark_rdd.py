"""Word count in Spark's RDDs with the Python generator of our own job."""

import sys
from collections.abc import Iterator
from operator import add

from pyspark.sql import SparkSession


def words(line: str) -> Iterator[str]:
    yield from line.split()


def main(output: str, cores: str, text: str) -> None:
    spark = SparkSession.builder.master(f"local[{cores}]").config("spark.driver.memory", "8g").getOrCreate()
    counted = spark.sparkContext.textFile(text).flatMap(words).map(lambda word: (word, 1)).reduceByKey(add)
    counted.toDF(["word", "n"]).write.parquet(output)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
