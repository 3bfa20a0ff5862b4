"""What halls of fame do at stimuli that they were not fitted to."""
