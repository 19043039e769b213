"""Where runs run: a launcher hands jobs to workers, here or on other machines."""
