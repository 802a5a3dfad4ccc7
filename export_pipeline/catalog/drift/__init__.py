"""Whether the catalogue still describes the database: sampling what is there, and saying what is missing."""
