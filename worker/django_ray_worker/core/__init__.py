"""Values and rules: what a claim is, what happened to it, what follows. Knows no actor, no database and no Ray."""
