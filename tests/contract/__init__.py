"""One suite run on every adapter, under every server that carries it, on every database."""
