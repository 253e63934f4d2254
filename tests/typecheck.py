"""Run-time type checks under pytest: beartype, with an int accepted where a float is expected."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
