"""Predicting with what was trained: from images, folders, lists, videos and cameras to files."""
