"""Tasks in the replicas of reusable environments: from what is declared to hosts, and calls of them."""
