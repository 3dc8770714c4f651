"""Join and sums in Spark with the dimension broadcast."""

import sys

from join_spark_merge import main

if __name__ == "__main__":
    main(*sys.argv[1:], hint="broadcast")
