"""File formats: bytes into batches of records and back. `base` is the contract."""
