"""What is done with trainings: comparisons, sweeps, evaluation and prediction."""
