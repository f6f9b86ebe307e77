"""Is this machine, is this run's folder fit to train? Checks that `doctor` runs side by side."""
