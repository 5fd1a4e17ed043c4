#!/bin/sh
# Prove docker-compose.yml: build, start, read the page, press a button, see the supervisor run the task, remove it all.
# It has a project and a database volume of its own. COMPOSE names another command: COMPOSE=podman-compose.
set -eu
cd "$(dirname "$0")/.."
url=http://127.0.0.1:8000
jar=$(mktemp)

compose() {
    ${COMPOSE:-docker compose} --project-name django-ray-test "$@"
}

finish() {
    status=$?
    trap - EXIT
    if [ "$status" -ne 0 ]; then
        echo "compose test: FAILED, $doing. The end of the logs:" >&2
        for service in postgres web supervisor; do
            echo "--- $service" >&2
            compose logs --tail 40 "$service" >&2 || :
        done
    fi
    rm -f "$jar"
    compose down -v >/dev/null 2>&1 || { echo "compose test: FAILED, removing the containers" >&2; status=1; }
    [ "$status" -ne 0 ] || echo "compose test: passed"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

doing="building and starting the services"
echo "$doing"
compose up -d --build >/dev/null

doing="waiting up to 180 seconds for $url/health/"
echo "$doing"
left=180
until curl --fail --silent --max-time 5 --output /dev/null "$url/health/"; do
    left=$((left - 1))
    [ "$left" -gt 0 ]
    sleep 1
done

doing="reading the page"
echo "$doing"
curl --fail --silent --show-error --max-time 5 --cookie-jar "$jar" "$url/" | grep '<title>'

doing="pressing a button of it"
echo "$doing"
token=$(sed -n 's/.*csrftoken[[:space:]]*//p' "$jar")
answer=$(curl --fail --silent --show-error --max-time 5 --cookie "$jar" --header "X-CSRFToken: $token" \
    --header "Accept: application/json" --request POST "$url/enqueue/greet/")
id=$(expr "$answer" : '{"id": "\([0-9a-f-]*\)"}')

doing="waiting up to 120 seconds until the task is SUCCESSFUL"
echo "$doing"
compose exec -T web python manage.py shell --no-imports -c "
import sys, time
from django.tasks import default_task_backend

deadline = time.monotonic() + 120
while not (result := default_task_backend.get_result('$id')).is_finished and time.monotonic() < deadline:
    time.sleep(0.2)
print(result.id, result.status, *(error.traceback for error in result.errors))
if result.status != 'SUCCESSFUL':
    sys.exit(1)
print(result.return_value)
"

doing="stopping the supervisor"
echo "$doing"
compose stop supervisor >/dev/null
