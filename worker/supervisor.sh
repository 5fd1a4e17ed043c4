#!/bin/sh
# A supervisor of a Ray cluster is a driver on a Ray node. So start one beside it, without CPUs, again whenever it ends.
# Arguments are django-ray-listen's.
set -eu
: "${RAY_ADDRESS:?must name the cluster: ray-head:6379}"

while :; do
    ray start --address="$RAY_ADDRESS" --num-cpus=0 --object-store-memory=100000000 --disable-usage-stats --block || :
    sleep 1
done &

exec django-ray-listen --cluster "$RAY_ADDRESS" "$@"
