"""What tasks do to records: one kind of operator a file, each a frozen value that is planned, fingerprinted and run."""
