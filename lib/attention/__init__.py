"""Seeing what the attention of a trained network does: pictures of one image, statistics of a split."""
