"""Methods of data assimilation, one file each, named after its paper; none imports another."""
