"""Files and labelled objects become arrays on the axes and in the units of a space."""
