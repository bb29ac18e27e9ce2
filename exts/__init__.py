"""Compiled extensions; each works without its compiled part too, more slowly. ``bash exts/make.sh`` builds them."""
