"""What happened: noted while the engine runs (`events`), told afterwards (`report`, `timeline`)."""
