"""Word count in DuckDB: lines as a CSV of one column."""

import sys

import duckdb


def main(output: str, cores: str, text: str) -> None:
    duckdb.sql(f"SET threads = {cores}; SET preserve_insertion_order = false")
    duckdb.sql(f"""
        COPY (
            SELECT word, count(*) AS n
            FROM (
                SELECT unnest(string_split(line, ' ')) AS word
                FROM read_csv('{text}', columns = {{'line': 'VARCHAR'}}, header = false, auto_detect = false,
                              delim = '\t', quote = '', escape = '')
            )
            GROUP BY word
        ) TO '{output}' (FORMAT parquet)
    """)


if __name__ == "__main__":
    main(*sys.argv[1:])
