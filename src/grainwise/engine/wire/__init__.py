"""What driver and workers say to each other: messages, sockets, shared words, errors."""
