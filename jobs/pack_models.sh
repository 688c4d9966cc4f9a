#!/bin/bash
# Pack folders of models once, so that jobs need not open thousands of files on shared storage (jobs/stage_models.sh unpacks them):
#   jobs/pack_models.sh [--zip] OUT FOLDER...
# makes OUT/NAME.tar (or NAME.zip, stored: weights do not get smaller) and OUT/NAME.tar.sha256. What is there and whole stays as it is.
set -euo pipefail
kind=tar
if [[ ${1:-} == --zip ]]; then
    kind=zip
    shift
fi
[[ $# -ge 2 ]] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
out=$1
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)

whole() { (cd "$out" && sha256sum --check --status "$1.sha256") 2> /dev/null; }

problems=() seen=" "
for folder in "$@"; do
    name=$(basename "$folder")
    if [[ ! -d $folder ]]; then
        problems+=("$folder: no such folder")
    elif [[ $seen == *" $name "* ]]; then
        problems+=("$folder: a second folder called $name")
    elif [[ -e $out/$name.$kind ]] && ! whole "$name.$kind"; then
        problems+=("$out/$name.$kind is there, but does not have the checksum of $name.$kind.sha256: remove it, then pack again")
    fi
    seen+="$name "
done
if [[ $kind == zip ]] && ! command -v zip > /dev/null; then problems+=("zip is not installed here: pack without --zip"); fi
if ((${#problems[@]})); then
    printf 'pack_models: %s\n' "${problems[@]}" >&2
    exit 2
fi

for folder in "$@"; do
    folder=$(cd "$folder" && pwd)
    name=$(basename "$folder")
    file=$name.$kind
    if [[ -e $out/$file ]]; then
        echo "$out/$file is there already, and whole"
        continue
    fi
    part=$out/.part-$file
    rm -f "$part"
    # Links are followed (a hub's cache is full of them); .cache is what a download left.
    if [[ $kind == tar ]]; then
        sum=$(tar -c -h --sort=name --exclude="$name/.cache" -C "$(dirname "$folder")" -f - -- "$name" \
            | tee "$part" | sha256sum | cut -d' ' -f1)
    else
        (cd "$(dirname "$folder")" && zip -q -0 -r "$part" "./$name" -x "./$name/.cache/*" "$name/.cache/*")
        sum=$(sha256sum "$part" | cut -d' ' -f1)
    fi
    mv "$part" "$out/$file"
    echo "$sum  $file" > "$out/.part-$file.sha256"
    mv "$out/.part-$file.sha256" "$out/$file.sha256"
    echo "$out/$file  $(du -h "$out/$file" | cut -f1)"
done
