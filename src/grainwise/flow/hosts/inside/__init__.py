"""What runs in the background: the host's process and its replicas."""
