# Sourced by a job: `supervise [--ranks N] COMMAND...` runs a command until it is done, beyond the time limit of one job.
#   USR1 (the scheduler's word that the time is nearly over, #SBATCH --signal=B:USR1@120) is passed on: the command stops in order
#     with exit code 3, the job is requeued under its own id, and the same command line goes on where it was.
#   TERM (scancel) is passed on: the command stops in order, and the job ends with its exit code. Nothing is requeued, unless it
#     was the time limit itself that came.
#   EXPERTCHAT_REQUEUES  how often a job may be requeued, by itself or because its node failed (20)
#   --ranks N            N processes, by srun on the job's nodes; outside Slurm by torchrun
# Options of the sourcing shell (set -eu) stay as they are; its traps on USR1, TERM and INT are replaced.
# shellcheck shell=bash

job_say() { printf 'job: %(%F %T)T %s\n' -1 "$*"; }

job_id() { # this job as scontrol takes it: the bare id of an array's task can mean the whole array
    if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; else echo "${SLURM_JOB_ID:-}"; fi
}

job_pass() { # SIGNAL WHY: pass a signal on to the command
    job_say "$2: the command is told to stop in order"
    kill -s "$1" "$job_command" 2> /dev/null
}

job_time() { # on USR1
    job_stopping=1
    job_pass USR1 "the time is nearly over (USR1)"
}

job_end() { # on TERM
    job_stopping=0
    job_pass TERM "cancelled, or the time is over (TERM)"
    if [[ -n ${SLURM_JOB_ID:-} ]] && scontrol show job "$(job_id)" | grep -q 'Reason=TimeLimit'; then
        job_requeue # at once, for the command may not end in the seconds that are left; what is not on disk then is made again
    fi
}

job_requeue() { # give the job back to the queue, which starts it again under the same id. 1: it is not given back, and why
    local id most=${EXPERTCHAT_REQUEUES:-20} restarts=${SLURM_RESTART_COUNT:-0}
    local go_on="the same command line with the same run.dir goes on"
    id=$(job_id)
    if ((restarts >= most)); then
        job_say "not requeued: it was $restarts times already, and EXPERTCHAT_REQUEUES=$most; $go_on"
        return 1
    fi
    trap : TERM USR1 # being requeued ends all that runs here, and scontrol shall not be ended by what it asks for
    (trap '' TERM USR1; exec scontrol requeue "$id") || { job_say "not requeued: scontrol refused (see above); $go_on"; return 1; }
    job_requeued=1
    job_say "requeued ($((restarts + 1)) of $most times at most); it goes on under job id $id"
}

job_launcher() { # N: fills job_line with what starts N processes, and says where they meet
    local here=$(($1 / ${SLURM_JOB_NUM_NODES:-1})) cores
    cores=$((${SLURM_CPUS_PER_TASK:-$1} / (here > 0 ? here : 1)))
    export OMP_NUM_THREADS=$((cores > 0 ? cores : 1))
    if [[ -z ${SLURM_JOB_ID:-} ]]; then
        job_line=(torchrun --standalone --nproc_per_node "$1" --no-python)
        return
    fi
    MASTER_ADDR=127.0.0.1
    if ((${SLURM_JOB_NUM_NODES:-1} > 1)); then MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1); fi
    export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node need ports of their own
    # Every process sees all GPUs of its node and takes the one of its number: --gpus-per-task does not work in every Slurm.
    # When one has ended, the others have a minute: --kill-on-bad-exit would end them while they stop in order (exit code 3).
    job_line=(srun --ntasks="$1" --cpus-per-task="$OMP_NUM_THREADS" --kill-on-bad-exit=0 --wait=60)
}

job_run() { # COMMAND...: run it, and write its process id, then its exit code, to the file job_notes
    # A process of its own that no signal disturbs: a trap that comes while the command ends can cost bash the exit code.
    trap : USR1 TERM INT # unlike '' this is not inherited
    "$@" &
    trap '' USR1 TERM INT
    local command=$! watch
    echo "$command" > "$job_notes"
    # Where the job's script is killed and its processes are not (so it is without control groups), the command is told to stop in order.
    (while kill -0 "$command" && sleep 1; do kill -0 $$ || exec kill -s TERM "$command"; done) < /dev/null &> /dev/null &
    watch=$!
    wait "$command"
    echo $? >> "$job_notes"
    kill -s KILL "$watch" 2> /dev/null
}

supervise() {
    local - # options that are set here end here
    set +eu
    local ranks=1 code runner job_line=() job_notes job_command job_stopping=0 job_requeued=0
    if [[ $1 == --ranks ]]; then
        ranks=$2
        shift 2
    fi
    if ((${SLURM_RESTART_COUNT:-0} > ${EXPERTCHAT_REQUEUES:-20})); then
        job_say "not started: requeued $SLURM_RESTART_COUNT times, and EXPERTCHAT_REQUEUES=${EXPERTCHAT_REQUEUES:-20}" >&2
        exit 1
    fi
    if ((ranks > 1)); then job_launcher "$ranks"; fi
    job_line+=("$@")
    job_say "starts: ${job_line[*]}"
    # A scratch folder may be gone: that of a requeued job is cleared away after its last attempt.
    job_notes=$(mktemp -p "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}" 2>/dev/null || mktemp -p /tmp) || exit 1
    job_run "${job_line[@]}" &
    runner=$!
    until [[ -s $job_notes ]]; do sleep 0.01; done
    job_command=$(cat "$job_notes")
    trap job_time USR1
    trap job_end TERM
    trap 'job_pass TERM "interrupted (INT)"' INT
    while wait "$runner"; kill -0 "$runner" 2> /dev/null; do :; done # a signal ends wait, not the command
    code=$(sed -n 2p "$job_notes")
    code=${code:-137} # none: killed together with what waited for it
    rm -f "$job_notes"
    job_say "the command has ended with exit code $code"
    # 138: the signal came before the command could catch it, or when it was done and on its way out
    if ((job_stopping && (code == 3 || code == 128 + 10))) && [[ -n ${SLURM_JOB_ID:-} ]]; then job_requeue || code=3; fi
    ((job_requeued)) && exit 0
    trap - USR1 TERM INT
    ((code == 0)) || exit "$code"
}
