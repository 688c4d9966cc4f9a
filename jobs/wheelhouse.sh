#!/bin/bash
# Fill a folder with the wheels of this project and of all it needs, on a login node that has the internet:
#   jobs/wheelhouse.sh FOLDER [OPTION OF pip wheel ...]        or: make wheelhouse WHEELHOUSE=FOLDER PIP_ARGS="..."
# Load the modules of the jobs first, so that it is the same Python. V100s: --extra-index-url https://download.pytorch.org/whl/cu126
# PYTHON names another Python, CONSTRAINTS another file of versions than constraints.txt (empty: none, for a site with its own wheels).
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
[[ $# -gt 0 ]] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
folder=$1
shift
python=${PYTHON:-python3}
constraints=${CONSTRAINTS-$here/constraints.txt}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
fixed=()
if [[ -n $constraints ]]; then
    cp "$constraints" "$folder/constraints.txt" # setup_env.sh installs by the same
    fixed=(-c "$folder/constraints.txt")
else
    rm -f "$folder/constraints.txt"
fi
rm -f "$folder"/expertchat-*.whl # of this project only the newest
"$python" -m pip wheel --wheel-dir "$folder" --find-links "$folder" ${fixed[@]+"${fixed[@]}"} "$@" "$here"
# What a job will do, short of installing: with this folder alone.
"$python" -m pip install --dry-run --ignore-installed --quiet --no-index --find-links "$folder" ${fixed[@]+"${fixed[@]}"} expertchat
wheels=("$folder"/*.whl)
echo "${#wheels[@]} wheels, $(du -sh "$folder" | cut -f1), for $("$python" -V). In jobs: export EXPERTCHAT_WHEELHOUSE=$folder"
