# Sourced by a job: unpacks models from shared storage to the node's own disk, in parallel and checked, and points EXPERTCHAT_MODELS there.
#   EXPERTCHAT_STAGE     names of models, with spaces between them; none: nothing is done
#   EXPERTCHAT_ARCHIVES  the folder of NAME.tar or NAME.zip, each with NAME.tar.sha256 beside it (jobs/pack_models.sh makes them)
#   EXPERTCHAT_MODELS    a folder of unpacked models: what is not staged is found there as before
# Without SLURM_TMPDIR the models are read in place. What is wrong ends the job with exit code 2. After a requeue SLURM_TMPDIR is empty:
# the models are unpacked again. Options of the sourcing shell (set -eu) stay as they are.
# shellcheck shell=bash

job_say() { printf 'job: %(%F %T)T %s\n' -1 "$*"; }

job_gib() { # bytes as GiB with one decimal
    local tenths=$((($1 * 10 + (1 << 29)) >> 30))
    echo "$((tenths / 10)).$((tenths % 10)) GiB"
}

job_stop() { # problems, one a line
    job_say "the models cannot be staged:" >&2
    printf '  - %s\n' "$@" >&2
    exit 2
}

job_archive() { # NAME: its archive, the tar if there are both
    local kind
    for kind in tar zip; do
        if [[ -f $EXPERTCHAT_ARCHIVES/$1.$kind ]]; then echo "$EXPERTCHAT_ARCHIVES/$1.$kind"; return; fi
    done
    return 1
}

job_expected() { head -n 1 "$1.sha256" | cut -d' ' -f1; } # ARCHIVE: the checksum that it should have

job_size() { # ARCHIVE: bytes when unpacked
    case $1 in
        *.tar) stat -L -c %s "$1" ;;
        *.zip) unzip -Z -t "$1" 2> /dev/null | sed -n 's/.* \([0-9]*\) bytes uncompressed.*/\1/p' ;;
    esac
}

job_staged() { # NAME ARCHIVE: whether it is unpacked already, from an archive with this checksum
    [[ -d $job_models/$1 && $(cat "$job_models/.$1.whole" 2> /dev/null) == "$(job_expected "$2")" ]]
}

job_unpack() { # NAME ARCHIVE: unpack under another name, compare the checksum, rename; prints why it could not
    local name=$1 archive=$2 part=$job_models/.part-$1 expected found began code=0 entries milli bytes
    began=$(date +%s%3N)
    expected=$(job_expected "$archive")
    rm -rf "$part" "$part.pipe" "${job_models:?}/$name"
    mkdir -p "$part" || code=$?
    if [[ $archive == *.tar ]]; then # read once: one copy goes to tar, one to sha256sum
        mkfifo "$part.pipe" || { echo "$name: no pipe can be made in $job_models (see above)"; return 1; }
        { tar -x --no-same-owner -f - -C "$part"; code=$?; cat > /dev/null; exit $code; } < "$part.pipe" &
        found=$(tee "$part.pipe" < "$archive" | sha256sum | cut -d' ' -f1)
    else
        unzip -q -o "$archive" -d "$part" &
        found=$(sha256sum < "$archive" | cut -d' ' -f1)
    fi
    wait $! || code=$?
    rm -f "$part.pipe"
    if [[ $found != "$expected" ]]; then
        echo "$name: $archive is damaged: its checksum should be $expected and is $found; copy or pack it again"
    elif ((code)); then
        echo "$name: $archive has the right checksum, but unpacking it failed with code $code (see above)"
    else
        entries=("$part"/*) # usually one folder, whose name need not be the model's
        if [[ ${#entries[@]} == 1 && -d ${entries[0]} ]]; then
            mv "${entries[0]}" "$job_models/$name" && rm -rf "$part"
        else
            mv "$part" "$job_models/$name"
        fi && echo "$expected" > "$job_models/.$name.whole" && {
            bytes=$(stat -L -c %s "$archive") milli=$(($(date +%s%3N) - began + 1))
            job_say "staged $name: $(job_gib "$bytes") in $((milli / 1000)).$((milli % 1000 / 100)) s," \
                "$((bytes * 1000 / milli >> 20)) MiB/s, checksum right" >&2
            return 0
        }
        echo "$name: cannot be written to $job_models (see above)"
    fi
    rm -rf "$part"
    return 1
}

job_in_place() { # no local disk: the models are read where they are
    local name problems=()
    for name in "$@"; do
        if [[ -n ${EXPERTCHAT_MODELS:-} && -d $EXPERTCHAT_MODELS/$name ]]; then continue; fi
        problems+=("$name: there is no SLURM_TMPDIR to unpack it to, and no folder $name in EXPERTCHAT_MODELS=${EXPERTCHAT_MODELS:-}")
    done
    if ((${#problems[@]})); then problems+=("unpack archives there once, or set SLURM_TMPDIR to a folder of a local disk"); fi
    if ((${#problems[@]})); then job_stop "${problems[@]}"; fi
    job_say "no SLURM_TMPDIR: the models are read in place, from $EXPERTCHAT_MODELS"
}

job_link() { # what was not staged stays findable
    local entry name
    if [[ -z ${EXPERTCHAT_MODELS:-} || $EXPERTCHAT_MODELS -ef $job_models ]]; then return; fi
    for entry in "$EXPERTCHAT_MODELS"/*/; do
        name=$(basename "$entry")
        if [[ -d $entry && ! -e $job_models/$name ]]; then ln -sfn "$(cd "$entry" && pwd)" "$job_models/$name"; fi
    done
}

stage_models() {
    local - # options that are set here end here
    set +eu
    local names=() name archive there size needed=0 free wanted=() archives=() problems=() pids=() i began=$SECONDS
    for name in ${EXPERTCHAT_STAGE:-}; do
        name=${name##*/} # OWNER/NAME is packed as NAME
        if [[ " ${names[*]} " != *" $name "* ]]; then names+=("$name"); fi
    done
    ((${#names[@]})) || return 0
    if [[ -z ${SLURM_TMPDIR:-} ]]; then job_in_place "${names[@]}"; return; fi
    [[ -d ${EXPERTCHAT_ARCHIVES:-} ]] \
        || job_stop "EXPERTCHAT_ARCHIVES=${EXPERTCHAT_ARCHIVES:-}: no such folder; make it: jobs/pack_models.sh ARCHIVES MODEL_FOLDER..."
    [[ ${SLURM_JOB_NUM_NODES:-1} == 1 ]] \
        || job_stop "models are staged to one node, this job has $SLURM_JOB_NUM_NODES: unset EXPERTCHAT_STAGE, they are read in place"
    job_models=$SLURM_TMPDIR/models
    mkdir -p "$job_models" || job_stop "$job_models cannot be made"

    for name in "${names[@]}"; do
        if ! archive=$(job_archive "$name"); then
            there=$(cd "$EXPERTCHAT_ARCHIVES" && { compgen -G '*.tar'; compgen -G '*.zip'; } | sort)
            problems+=("$name: no $name.tar and no $name.zip in $EXPERTCHAT_ARCHIVES; there: ${there:-no archive}")
        elif [[ ! -s $archive.sha256 ]]; then
            problems+=("$name: no checksum $archive.sha256; if the archive is right, make it: sha256sum '$archive' > '$archive.sha256'")
        elif [[ $archive == *.zip ]] && ! command -v unzip > /dev/null; then
            problems+=("$name: unzip is not installed here; pack it as tar")
        elif job_staged "$name" "$archive"; then
            job_say "staged already: $name"
        elif ! size=$(job_size "$archive") || [[ -z $size ]]; then
            problems+=("$name: $archive cannot be read, or is no archive; copy or pack it again")
        else
            wanted+=("$name") archives+=("$archive") needed=$((needed + size))
        fi
    done
    free=$(df --output=avail -B1 "$SLURM_TMPDIR" | tail -n 1)
    if ((needed > free)); then
        problems+=("$SLURM_TMPDIR: needs $(job_gib "$needed") for ${wanted[*]}, $(job_gib "$free") are free; stage less, or get more disk")
    fi
    if ((${#problems[@]})); then job_stop "${problems[@]//$'\n'/, }"; fi

    for i in "${!wanted[@]}"; do
        job_unpack "${wanted[i]}" "${archives[i]}" > "$job_models/.${wanted[i]}.reason" &
        pids+=($!)
    done
    for i in "${!wanted[@]}"; do
        wait "${pids[i]}" || problems+=("$(cat "$job_models/.${wanted[i]}.reason")")
        rm -f "$job_models/.${wanted[i]}.reason"
    done
    if ((${#problems[@]})); then job_stop "${problems[@]}"; fi
    job_link
    export EXPERTCHAT_MODELS=$job_models
    job_say "${#wanted[@]} models staged to $EXPERTCHAT_MODELS in $((SECONDS - began)) s"
}

stage_models
