"""Side-by-side measurements of grainwise, its peers and the limits of the machine.

`python -m benchmarks` runs every row and writes a table; `benchmarks/README.md` says how to read it.
"""
