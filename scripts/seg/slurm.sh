#!/usr/bin/env bash
# A recipe on several machines under SLURM, from a checkout that all of them see:
#   sbatch [--nodes=N ...] scripts/seg/slurm.sh scripts/seg/cityscapes/run_dnl.sh train TAG DATA_DIR [...]
# Options of sbatch win over the lines below. One task a machine starts the recipe's script, which starts a process for
# each of the machine's GPUs. Two minutes before the time is up, the run saves a checkpoint and stops: submit it again
# with resume in place of train.
#SBATCH --job-name=dnl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%j.txt
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "error: name the recipe's script and its arguments: slurm.sh scripts/seg/cityscapes/run_dnl.sh train TAG DATA_DIR" >&2
  exit 2
fi

# All machines meet at the first one, at a port that another job on it is unlikely to have.
read -r host < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export NNODES=$SLURM_JOB_NUM_NODES
export RDZV=$host:$((20000 + SLURM_JOB_ID % 20000))
export MAX_RESTARTS=${MAX_RESTARTS:-3}
# Single quotes: each machine has a number of its own, and srun expands it there.
# shellcheck disable=SC2016
exec srun --kill-on-bad-exit=1 bash -c 'NODE_RANK=$SLURM_NODEID exec bash "$@"' bash "$@"
