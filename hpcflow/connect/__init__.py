"""The server on a login node, used from a laptop: installed and started there, reached through one connection."""
