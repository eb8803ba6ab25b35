"""Measures of samples: classifiers, distances between sets, and the evaluation of a run."""
