"""A module of Ray's of which only submodules are here."""
