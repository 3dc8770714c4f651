"""Sort of lines in Spark's DataFrames."""

import sys

from pyspark.sql import SparkSession


def main(output: str, cores: str, text: str) -> None:
    spark = SparkSession.builder.master(f"local[{cores}]").config("spark.driver.memory", "8g").getOrCreate()
    spark.read.text(text).sort("value").write.text(output)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
