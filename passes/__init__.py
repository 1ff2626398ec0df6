"""The built-in passes, one per file."""
