#!/usr/bin/env bash
# Train on all hosts of a TPU pod slice:
#   TPU=my-v5e-64 ZONE=us-west4-a RUN_DIR=/mnt/shared/runs/ende CONFIG=/mnt/shared/base.json \
#       examples/launch/tpu_pod.sh
# RUN_DIR lies on a filesystem that all hosts mount (Filestore, or a bucket through gcsfuse).
set -euo pipefail
: "${TPU:?}" "${ZONE:?}" "${RUN_DIR:?name the run folder}" "${CONFIG:?name the configuration}"

# --worker=all: the same command on every host, a process each, which drives the host's chips.
# --distributed: the TPU's metadata tell JAX who the others are.
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command \
    "transformer-jax train --distributed --config $(printf %q "$CONFIG") --run-dir $(printf %q "$RUN_DIR")"
