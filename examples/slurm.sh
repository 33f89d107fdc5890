#!/bin/sh
# An archive over the machines of a Slurm cluster: sbatch --array=0-15 examples/slurm.sh
#
# Each task of the array takes its own part, by a hash of every item's name, and writes its own results; no task needs to know of
# another. A task that is preempted (SIGTERM) finishes what is under way, and goes on where it was when it is requeued.
# When all are done: vidense results merge results/shard-* --out results/all
#SBATCH --job-name=vidense
#SBATCH --cpus-per-task=8
#SBATCH --mem=40G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
set -eu

i=$SLURM_ARRAY_TASK_ID
n=$SLURM_ARRAY_TASK_COUNT

# `exec`, so that the signal reaches vidense itself.
exec vidense batch "${PIPELINE:-pipelines/mini.yaml}" "${ARCHIVE:-videos}" --questions "${QUESTIONS:-questions.yaml}" \
    --shard "$i/$n" --out "results/shard-$i" --cache "${TMPDIR:-/tmp}/vidense-features" --log json
