"""One's own data: from folders of images and labels as people have them to a DATA_DIR."""
