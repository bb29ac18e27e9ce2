"""Publishing what was trained: a folder that says what it is, in which nothing is pickled."""
