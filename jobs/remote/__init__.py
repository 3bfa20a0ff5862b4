"""Jobs on a cluster far away, over Ray's Jobs API."""
