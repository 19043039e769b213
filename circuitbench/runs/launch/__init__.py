"""Where runs run: worker processes on this machine."""
