"""Methods: one paper, one file; a folder where one file is not enough."""
