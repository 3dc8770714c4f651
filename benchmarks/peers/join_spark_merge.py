"""Join and sums in Spark with a sort-merge join."""

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F


def main(output: str, cores: str, facts: str, dimension: str, hint: str = "merge") -> None:
    spark = SparkSession.builder.master(f"local[{cores}]").config("spark.driver.memory", "8g").getOrCreate()
    spark.conf.set("spark.sql.shuffle.partitions", int(cores) * 4)
    joined = spark.read.parquet(facts).join(spark.read.parquet(dimension).hint(hint), "customer")
    sums = joined.groupBy("segment").agg(F.count("*").alias("n"), F.sum("amount").alias("amount"))
    sums.write.parquet(output)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
