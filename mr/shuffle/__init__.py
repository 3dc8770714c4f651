"""How rows get from map tasks to reduce tasks: one run file a map attempt, read by range of buckets or of keys."""
