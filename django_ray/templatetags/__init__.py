"""How the admin's pages show things."""
