"""The larger commands of `grainwise`: `run`, `runs`, `cache` and `map`. Each is loaded when it is called."""
