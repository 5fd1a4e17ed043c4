#!/bin/sh
# Wait for PostgreSQL, bring its tables up to date, become the command.
set -eu
: "${DATABASE_URL:?must name a PostgreSQL database: postgresql://user:password@host/name}"

until said=$(python -c 'import sys, psycopg; psycopg.connect(sys.argv[1], connect_timeout=3)' "$DATABASE_URL" 2>&1); do
    echo "Waiting for PostgreSQL: $(printf '%s\n' "$said" | grep Error | tail -n 1)"
    sleep 1
done
python manage.py migrate --no-input
exec "$@"
