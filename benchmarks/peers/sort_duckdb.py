"""Sort of lines in DuckDB, CSV of one column to the same."""

import sys

import duckdb


def main(output: str, cores: str, text: str) -> None:
    duckdb.sql(f"SET threads = {cores}")
    duckdb.sql(f"""
        COPY (
            SELECT line
            FROM read_csv('{text}', columns = {{'line': 'VARCHAR'}}, header = false, auto_detect = false,
                          delim = '\t', quote = '', escape = '')
            ORDER BY line
        ) TO '{output}' (FORMAT csv, HEADER false, QUOTE '', ESCAPE '', DELIMITER '\t')
    """)


if __name__ == "__main__":
    main(*sys.argv[1:])
