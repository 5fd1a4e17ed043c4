"""What importing psycopg is like where there is no libpq."""

raise ImportError("no pq wrapper available.")
