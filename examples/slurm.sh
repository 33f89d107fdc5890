#!/bin/sh
# An archive over the machines of a Slurm cluster: sbatch --array=0-15 examples/slurm.sh
#
# Each task of the array takes its own part, by a hash of every item's name, and writes its own results; no task needs to know of
# another. Five minutes before its time is up, or when it is preempted, a task finishes what is under way, and asks to be queued
# again, to go on where it was. When all are done: vidense results merge results/shard-* --out results/all
#SBATCH --job-name=vidense
#SBATCH --cpus-per-task=8
#SBATCH --mem=40G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
set -u

i=$SLURM_ARRAY_TASK_ID
# The same for all submissions: SHARDS=16 sbatch --array=7 examples/slurm.sh runs one of them again.
n=${SHARDS:-$SLURM_ARRAY_TASK_COUNT}
out=results/shard-$i

vidense batch "${PIPELINE:-pipelines/mini.yaml}" "${ARCHIVE:-videos}" --questions "${QUESTIONS:-questions.yaml}" \
    --shard "$i/$n" --out "$out" --cache "${TMPDIR:-/tmp}/vidense-features" --log json &
pid=$!
trap 'kill -TERM $pid' TERM

# A signal ends the wait, not vidense.
while kill -0 $pid 2>/dev/null; do
    wait $pid
    code=$?
done

# Exit code 1 is: done, but for some items, which are in the results with their causes; or stopped before everything was done.
if [ "$code" -le 1 ]; then
    grep -q '"complete": true' "$out/summary.json" && exit 0
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$i"
fi
exit "$code"
