"""Three tables of an access log in Spark: one regular expression, the columns cached, three queries on them."""

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

LINE = r'^(\S+) \S+ \S+ \[([^\]]+)\] "\S+ (\S+) [^"]*" (\d{3}) (\d+|-) "[^"]*" "[^"]*"$'


def main(output: str, cores: str, log: str) -> None:
    spark = SparkSession.builder.master(f"local[{cores}]").config("spark.driver.memory", "8g").getOrCreate()
    spark.conf.set("spark.sql.shuffle.partitions", cores)
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    lines = spark.read.text(log).filter(F.col("value").rlike(LINE))
    host, time, url, status, size = (F.regexp_extract("value", LINE, group) for group in range(1, 6))
    hits = lines.select(
        host.alias("host"),
        url.alias("url"),
        F.date_trunc("hour", F.to_timestamp(time, "dd/MMM/yyyy:HH:mm:ss Z")).alias("hour"),
        status.cast("bigint").alias("status"),
        F.when(size != "-", size).cast("bigint").alias("bytes"),
    ).cache()
    bytes_sum = F.coalesce(F.sum("bytes"), F.lit(0)).alias("bytes")
    hours = hits.groupBy("hour", "status").agg(F.count("*").alias("requests"), bytes_sum)
    hours.write.parquet(f"{output}/hours")
    for column in ("url", "host"):
        counted = hits.groupBy(column).agg(F.count("*").alias("requests"))
        counted.orderBy(F.desc("requests"), column).limit(100).write.parquet(f"{output}/{column}s")
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
