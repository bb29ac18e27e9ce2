"""From raw downloads to the prepared layout that training reads, one module a dataset.

``runner`` checks and writes; a dataset's module says only how its raw files pair up.
"""
