"""What runs in the user's Python: decorating, tracing, and talking to the server."""
