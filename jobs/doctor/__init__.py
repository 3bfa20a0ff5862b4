"""What is wrong with a machine or a cluster, and what to do about it."""
