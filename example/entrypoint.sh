#!/bin/sh
# Wait for PostgreSQL, bring its tables up to date, create the demo user if there is to be one, become the command.
set -eu
: "${DATABASE_URL:?must name a PostgreSQL database: postgresql://user:password@host/name}"

until said=$(python -c 'import sys, psycopg; psycopg.connect(sys.argv[1], connect_timeout=3)' "$DATABASE_URL" 2>&1); do
    echo "Waiting for PostgreSQL: $(printf '%s\n' "$said" | grep Error | tail -n 1)"
    sleep 1
done
python manage.py migrate --no-input
[ -z "${DEMO_USER:-}" ] || python manage.py demo_user
exec "$@"
