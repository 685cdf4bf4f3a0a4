#!/usr/bin/env bash
# Train on several hosts of a SLURM cluster:
#   RUN_DIR=/shared/runs/ende CONFIG=/shared/base.json sbatch examples/launch/slurm.sh
# CONFIG is what `transformer-jax train --run-dir x --print-config ...` printed; RUN_DIR and the text
# that CONFIG names lie on a filesystem that all hosts share.
#
#SBATCH --job-name=transformer
#SBATCH --nodes=2
# One process for each GPU: this is how JAX divides the GPUs of a SLURM job.
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
# For reading and assembling batches.
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
# Two minutes before the time is up, and when the job is preempted: all processes save the same step
# and end with code 143.
#SBATCH --signal=TERM@120
# Started again after preemption, it goes on from the newest checkpoint.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
: "${RUN_DIR:?name the run folder}" "${CONFIG:?name the configuration}"

# --kill-on-bad-exit: where one process fails the others are ended too, at once.
# --distributed: SLURM tells JAX the coordinator, the number of processes and which one this is.
exec srun --kill-on-bad-exit=1 --label \
    transformer-jax train --distributed --config "$CONFIG" --run-dir "$RUN_DIR"
