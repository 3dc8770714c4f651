"""Millrace beside its peers: the same input, whole processes, one run."""
