            names
