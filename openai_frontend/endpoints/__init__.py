"""One file per endpoint; each turns HTTP into calls of `Service` and nothing else."""
