"""Who may do what: tokens, roles, links for the person whose data it is, and the history of every access."""
