#!/bin/bash
# Online DPO as a Slurm job, from this checkout:  sbatch jobs/online_dpo.sh +experiment=embedded rounds=2
# What is learnt, and how, stands in conf/ and is set by arguments; without any, the embedded Llama learns. Here: what the job asks for.
# Whatever stands in an #SBATCH line can be said to sbatch as well:  sbatch --gpus-per-node=h100:4 --time=12:00:00 jobs/online_dpo.sh
# The account: export SBATCH_ACCOUNT=def-name once, or one more line:  #SBATCH --account=def-name
#SBATCH --job-name=online_dpo
#SBATCH --time=1-00:00:00
#SBATCH --nodes=1
#SBATCH --gpus-per-node=v100:4
#SBATCH --cpus-per-task=8
#SBATCH --mem=12G
#SBATCH --output=slurm-%j.out
# Two minutes before the time limit the run is told to stop in order; it is requeued and goes on where it was, in the same log.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

# What this cluster has; all optional, and exported before sbatch they hold as well.
# export EXPERTCHAT_MODULES="StdEnv/2023 python/3.11 cuda/12.2"
# export EXPERTCHAT_WHEELHOUSE=$HOME/wheelhouse      # filled on the login node: make wheelhouse WHEELHOUSE=$HOME/wheelhouse
# export EXPERTCHAT_ARCHIVES=$HOME/archives          # filled once: jobs/pack_models.sh $HOME/archives $HOME/models/*
# export EXPERTCHAT_STAGE="Meta-Llama-3-8B-Instruct Mixtral-8x7B-Instruct-v0.1 all-mpnet-base-v2"
ranks=${EXPERTCHAT_RANKS:-1} # processes: 1 for train.sharding=pipeline, one for each GPU for ddp and fsdp
name=${SLURM_JOB_ID:-$(date +%Y-%m-%d-%H%M%S)}
run=${EXPERTCHAT_RUNS:-$PWD/runs}/${SLURM_JOB_ID:+slurm-}$name-online_dpo # named after the job, so that a requeued one finds it

source jobs/setup_env.sh    # modules, a Python environment, no network
source jobs/stage_models.sh # models onto the node's own disk
source jobs/supervise.sh    # the time limit, several processes
supervise --ranks "$ranks" expertchat online_dpo run.dir="$run" view=plain "$@"
