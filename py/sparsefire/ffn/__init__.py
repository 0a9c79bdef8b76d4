"""Feed-forward layers: sparse, dense, cached; predictors and sparsity."""
