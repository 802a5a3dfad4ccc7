"""Which collections hold a user's data, and how: the catalogue, and where its entries come from."""
