#!/usr/bin/env bash
# Train on a machine that is rented for minutes and has no network: everything is brought along, and
# the checkpoint returns in pieces that fit small transfers.
#
#   rented.sh SECONDS WORK HOME [finetune arguments, such as --parent and --set]
#
# WORK stays there between calls. It holds packed/part-* (written by
# `python -m stemwire.training.tools.pack`), optionally wheels/*.whl (missing packages), and the run.
# HOME is what is brought back. To resume later, put the pieces that came back into WORK/pieces.
# SECONDS is the time limit of the whole call; the run is stopped early enough to be saved.
set -euo pipefail
ends=$(($(date +%s) + $1)) work=$2 home=$3
shift 3
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$work/run" "$home"
work=$(realpath "$work") home=$(realpath "$home")

if [ ! -d "$work/site/stemwire" ]; then
  # The installed PyTorch and its dependencies are kept; they fit the driver.
  if compgen -G "$work/wheels/*.whl" >/dev/null; then
    python3 -m pip install -q --no-index --no-deps --target "$work/site" "$work"/wheels/*.whl
  fi
  mkdir -p "$work/site/stemwire"
  cp -r "$here"/src/stemwire/. "$work/site/stemwire/"
  for part in model realtime bridge training; do cp -r "$here/$part" "$work/site/stemwire/"; done
fi
export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
python3 -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'

if compgen -G "$work/pieces/run.tar.*" >/dev/null && [ ! -e "$work/run/checkpoint.pt" ]; then
  cat "$work"/pieces/run.tar.* | tar -x -C "$work/run"
fi
cores=$(nproc)
python3 -m stemwire.cli data scan "$work"/packed/part-* -o "$work/songs.jsonl" --jobs "$cores"
python3 -m stemwire.cli data cache "$work/songs.jsonl" -o "$work/cache" --jobs "$cores"

# A minute is reserved for saving and packing. An interrupt saves and exits with status 130.
left=$((ends - $(date +%s) - 60))
status=0
timeout --foreground --signal=INT "$left" python3 -m stemwire.cli finetune --data "$work/songs.jsonl" \
  --cache "$work/cache" -o "$work/run" --set precision=bf16-true \
  --workers "$((cores > 2 ? cores - 2 : 1))" "$@" || status=$?
[ "$status" = 0 ] || [ "$status" = 124 ] || [ "$status" = 130 ] || exit "$status"

# The averaged weights are in the checkpoint too: the next call writes ema.safetensors from it.
cd "$work/run"
files=(checkpoint.pt run.json)
[ ! -e log.jsonl ] || files+=(log.jsonl)  # missing before the first validation
cp "${files[@]:1}" "$home"
tar -c "${files[@]}" | split -b 15M - "$home/run.tar."
ls -l "$home"
