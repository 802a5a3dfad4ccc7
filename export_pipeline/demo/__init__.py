"""A database to try things on: generated, the same for everyone, and as awkward as real ones."""
