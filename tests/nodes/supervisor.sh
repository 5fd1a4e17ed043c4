#!/bin/sh
# The supervisor is a driver on a Ray node, so there is one beside it: without CPUs, and started again whenever it ends.
set -eu

while :; do
    ray start --address=head:6379 --num-cpus=0 --object-store-memory=100000000 --disable-usage-stats --block || :
    sleep 1
done &

exec django-ray-listen --cluster head:6379 --concurrency 6
