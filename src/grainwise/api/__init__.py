"""The words that users say: remote, put, get, wait, cancel, init, shutdown."""
