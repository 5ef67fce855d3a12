"""Where a model's time goes, beside what its kernels compute and move and the machine could do."""
