"""Ready-made jobs, one a file, and the pure rooms they share."""
