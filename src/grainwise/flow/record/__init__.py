"""The run record: what every run did, in SQLite, for `grainwise runs`, resuming, and the page.

    scheduler's thread ──tells──► RunRecord ──rows──► writer thread ──one transaction for all that waits──►
    file

`places` knows the folder, `schema` the tables, `encoding` how values are kept, `recorder` makes rows of what
it is told, `writer` writes them, `reading` reads them, `resume` gives a run what an earlier one has finished.
"""
