"""Three tables of an access log in DuckDB: one regular expression into a table, three queries on it."""

import sys
from pathlib import Path

import duckdb

LINE = r'^(\S+) \S+ \S+ \[([^\]]+)\] "\S+ (\S+) [^"]*" (\d{3}) (\d+|-) "[^"]*" "[^"]*"$'
TOP = "SELECT {0}, count(*) AS requests FROM hits GROUP BY {0} ORDER BY requests DESC, {0} LIMIT 100"


def main(output: str, cores: str, log: str) -> None:
    duckdb.sql(f"SET threads = {cores}; SET preserve_insertion_order = false; SET TimeZone = 'UTC'")
    duckdb.sql(f"""
        CREATE TEMP TABLE hits AS
        SELECT hit.host AS host, hit.url AS url, hit.status::BIGINT AS status, try_cast(hit.bytes AS BIGINT) AS bytes,
               date_trunc('hour', strptime(hit.time, '%d/%b/%Y:%H:%M:%S %z')) AS hour
        FROM (
            SELECT regexp_extract(line, '{LINE}', ['host', 'time', 'url', 'status', 'bytes']) AS hit
            FROM read_csv('{log}', columns = {{'line': 'VARCHAR'}}, header = false, auto_detect = false,
                          delim = '\x01', quote = '', escape = '')
        )
        WHERE hit.host <> ''
    """)
    bytes_sum = "coalesce(sum(bytes), 0)::BIGINT AS bytes"
    hours = f"SELECT hour, status, count(*) AS requests, {bytes_sum} FROM hits GROUP BY hour, status"
    for name, query in {"hours": hours, "urls": TOP.format("url"), "hosts": TOP.format("host")}.items():
        Path(output, name).mkdir(parents=True)
        duckdb.sql(f"COPY ({query}) TO '{output}/{name}/0.parquet' (FORMAT parquet)")


if __name__ == "__main__":
    main(*sys.argv[1:])
