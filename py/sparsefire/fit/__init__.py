"""Fitting predictors and thresholds to the samples of one layer."""
