"""Every tensor operation of somebody's Python code: what it did, with what, and on which line of which file."""
