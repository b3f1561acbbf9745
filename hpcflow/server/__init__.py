"""The server: everything that waits, stores or talks to a cluster. The only asynchronous part of hpcflow."""
