"""Methods without learning agents, one file per family, registered like any third party's."""
