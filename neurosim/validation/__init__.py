"""What a fitted model does at stimuli that it was not fitted to."""
