"""Files that only the right key opens: age (https://age-encryption.org/v1), written and read as streams."""
