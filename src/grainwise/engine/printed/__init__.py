"""What workers print: their output, log records and warnings, on the way to the program.

    worker                                    driver
    sys.stdout, sys.stderr (streams)   ──┐
    C code, subprocesses: fd 1, fd 2   ──┼─► two files without a name ─► tail ─► a thread ─► sys.stdout
    logging, warnings    (forwarding)  ──┘   (frames tell whose text                 │       sys.stderr
             ▲                                it is, and carry records)              └─► records ─► logging
             └──────────────── levels ◄────── the program's logging configuration                   warnings

All of it goes through the files, so it never blocks a worker, keeps its order, and is there after a crash.
"""
