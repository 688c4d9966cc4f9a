# Sourced by a job: says where it runs, loads modules, and puts an `expertchat` on PATH without ever trying the network.
#   EXPERTCHAT_MODULES     modules to load, in this order: "StdEnv/2023 python/3.11 cuda/12.2"
# and the first of these that is there:
#   EXPERTCHAT_WHEELHOUSE  a folder of wheels (make wheelhouse): installed in $SLURM_TMPDIR/env, again after a requeue
#   EXPERTCHAT_VENV        an environment to use as it is
#   .venv                  of the folder that the job was submitted from (make setup)
#   the expertchat on PATH
# What is wrong ends the job with exit code 2 in its first seconds. Options of the sourcing shell (set -eu) stay as they are.
# shellcheck shell=bash

job_say() { printf 'job: %(%F %T)T %s\n' -1 "$*"; }
job_fail() { job_say "$*" >&2; exit 2; }

job_where() { # host, job, restarts, GPUs, local disk
    local gpus
    gpus=$(nvidia-smi -L 2>/dev/null) || gpus="CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-(not set)}"
    job_say "host $HOSTNAME, job ${SLURM_JOB_ID:-none (no Slurm)}, requeued ${SLURM_RESTART_COUNT:-0} times"
    job_say "GPUs: $gpus"
    job_say "SLURM_TMPDIR: ${SLURM_TMPDIR:-(not set)}"
}

job_modules() { # load EXPERTCHAT_MODULES one by one, so that the message can name the one that fails
    local - names name init
    set +eu # module is a shell function that others wrote
    read -ra names <<< "${EXPERTCHAT_MODULES:-}"
    ((${#names[@]})) || return 0
    # shellcheck source=/dev/null
    for init in /etc/profile.d/{modules,lmod,z00_lmod}.sh; do # a job script is no login shell
        if ! type module &> /dev/null && [[ -r $init ]]; then source "$init"; fi
    done
    type module &> /dev/null \
        || job_fail "EXPERTCHAT_MODULES=\"$EXPERTCHAT_MODULES\", but this machine has no 'module' command: unset it here"
    for name in "${names[@]}"; do
        module load "$name" || job_fail "module $name cannot be loaded (see above):" \
            "look for it with 'module spider ${name%%/*}' and correct EXPERTCHAT_MODULES"
    done
    job_say "modules: ${names[*]}"
}

job_install() { # a fresh environment on the node's own disk, from wheels alone
    local env=$1 wheels=$2 python began=$SECONDS fixed=() install
    local fill="on the login node, with the same modules: make wheelhouse WHEELHOUSE=$2"
    compgen -G "$wheels/expertchat-*.whl" > /dev/null || job_fail "EXPERTCHAT_WHEELHOUSE=$wheels: no wheel of expertchat there; $fill"
    if [[ -e $env/.whole ]]; then return; fi # another command of the same job was here
    [[ ${SLURM_JOB_NUM_NODES:-1} == 1 ]] \
        || job_fail "a wheelhouse is installed on one node, this job has $SLURM_JOB_NUM_NODES: set EXPERTCHAT_VENV to one that all see"
    python=$(command -v python || command -v python3) || job_fail "no python here: name its module in EXPERTCHAT_MODULES"
    rm -rf "$env"
    if command -v virtualenv > /dev/null; then
        virtualenv --quiet --no-download --python "$python" "$env"
    else
        "$python" -m venv "$env"
    fi || job_fail "$python cannot make an environment in $env (see above)"
    if [[ -e $wheels/constraints.txt ]]; then fixed=(-c "$wheels/constraints.txt"); fi
    # pip looks for everything before it installs anything. Compiling all modules takes longer than those that are used.
    install=("$env/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-compile)
    install+=(--no-index --find-links "$wheels")
    if ! "${install[@]}" ${fixed[@]+"${fixed[@]}"} expertchat; then
        "${install[@]}" --dry-run expertchat || true # without fixed versions pip says plainly what is missing
        job_fail "EXPERTCHAT_WHEELHOUSE=$wheels does not hold all that is needed (see above); $fill"
    fi
    touch "$env/.whole"
    job_say "installed from $wheels in $((SECONDS - began)) s"
}

job_compare() { # a wheel is as old as it is: say so where the folder of the job has been edited since
    local installed differ
    installed=$(compgen -G "$1/lib/python*/site-packages/expertchat" | head -1) || true
    if [[ -z $installed || ! -d conf || ! -d expertchat ]]; then return; fi
    differ=$({ diff -rq conf "$installed/conf"; diff -rq -x __pycache__ -x conf -x jobs expertchat "$installed"; } | wc -l) || true
    if ((differ)); then
        job_say "$differ files of conf/ and expertchat/ differ from the wheel's, and the wheel is what runs;" \
            "to take them: make wheelhouse WHEELHOUSE=$EXPERTCHAT_WHEELHOUSE"
    fi
}

job_python() { # choose the environment
    local chosen="" version
    if [[ -n ${EXPERTCHAT_WHEELHOUSE:-} ]]; then
        [[ -n ${SLURM_TMPDIR:-} ]] || job_fail "EXPERTCHAT_WHEELHOUSE is installed in SLURM_TMPDIR, which is not set here:" \
            "set it to a folder of a local disk, or use EXPERTCHAT_VENV"
        chosen=$SLURM_TMPDIR/env
        job_install "$chosen" "$EXPERTCHAT_WHEELHOUSE"
        job_compare "$chosen"
    elif [[ -n ${EXPERTCHAT_VENV:-} ]]; then
        chosen=$EXPERTCHAT_VENV
        [[ -x $chosen/bin/expertchat ]] || job_fail "EXPERTCHAT_VENV=$chosen has no bin/expertchat:" \
            "install the project there, or use make setup or make wheelhouse"
    elif [[ -x .venv/bin/expertchat ]]; then
        chosen=$PWD/.venv
    fi
    if [[ -n $chosen ]]; then
        export VIRTUAL_ENV=$chosen PATH=$chosen/bin:$PATH
        unset PYTHONHOME
        hash -r
    fi
    command -v expertchat > /dev/null \
        || job_fail "no expertchat here: make setup in $PWD on the login node, or make wheelhouse there and export EXPERTCHAT_WHEELHOUSE"
    version=$(expertchat --version 2>&1) || job_fail "$(command -v expertchat) does not start: $version"
    job_say "$version, $(command -v expertchat)"
}

trap 'job_say "the time is nearly over (USR1), and the run has not begun: ask for a longer --time" >&2; exit 1' USR1 # until supervise
job_where
job_modules
# A compute node has no internet: what is missing shall be missed at once. Several commands at once share the cores of the job.
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} TRANSFORMERS_OFFLINE=${TRANSFORMERS_OFFLINE:-1} HF_DATASETS_OFFLINE=${HF_DATASETS_OFFLINE:-1}
export PYTHONUNBUFFERED=1
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK; fi
job_python
