"""Word count in Spark's DataFrames."""

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F


def main(output: str, cores: str, text: str) -> None:
    spark = SparkSession.builder.master(f"local[{cores}]").config("spark.driver.memory", "8g").getOrCreate()
    spark.conf.set("spark.sql.shuffle.partitions", cores)
    words = spark.read.text(text).select(F.explode(F.split("value", " ")).alias("word"))
    words.groupBy("word").agg(F.count("*").alias("n")).write.parquet(output)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
