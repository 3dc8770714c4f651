"""Join and sums in DuckDB."""

import sys

import duckdb


def main(output: str, cores: str, facts: str, dimension: str) -> None:
    duckdb.sql(f"SET threads = {cores}; SET preserve_insertion_order = false")
    duckdb.sql(f"""
        COPY (
            SELECT segment, count(*) AS n, sum(amount)::BIGINT AS amount
            FROM '{facts}' JOIN '{dimension}' USING (customer)
            GROUP BY segment
        ) TO '{output}' (FORMAT parquet)
    """)


if __name__ == "__main__":
    main(*sys.argv[1:])
