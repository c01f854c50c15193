#!/usr/bin/env bash
# What only a GPU can say, in the order of what matters: the tests marked gpu, the step of ucgan_full at
# three batch sizes, and the paper's recipe on real radiographs.
#
#   benchmarks/gpu.sh ZHANG [STEPS]     one log a check in $OUT (gpu-check), summary last
#
# With DEVICE=cpu it is rehearsed on a processor: nothing is captured there, and the tests are skipped.
set -u
data=$(realpath "$1"); steps=${2:-20000}; device=${DEVICE:-cuda}; python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd); out=$(mkdir -p "${OUT:-gpu-check}" && cd "${OUT:-gpu-check}" && pwd)
export PYTHONUNBUFFERED=1 CUBLAS_WORKSPACE_CONFIG=:4096:8

check() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  timeout --signal INT --kill-after 30 "$limit" "$@" >"$out/$name.log" 2>&1
  echo "$name: exit code $?, $((SECONDS - began)) s" | tee -a "$out/summary"
}

fast=(); [ "$device" = cpu ] && fast=(--fast)
check card 60 "$python" -c "import torch; print(torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())"
check tests 600 "$python" -m pytest -m gpu -n 8 --dist worksteal "$here/tests/gpu"
for batch in 12 64 256; do
  check "step-$batch" 180 "$python" "$here/benchmarks/step.py" --batch "$batch" --compile graphs --json "${fast[@]}"
done
check ucgan_full 1800 "$python" -m xraygan run ucgan_full --out "$out/ucgan_full" \
  --set run.device="$device" --set run.compile=graphs --set run.steps="$steps" --set run.sample_every=2500 \
  --set data.plugin=zhang --set data.root="$data" --set 'data.classes="all"' --set 'data.only=[]' \
  --set classifier.weights=random --set extractors.vgg19.weights=random --set metrics.fid=false \
  --set evaluation.protocol=official --set evaluation.generated=500
cat "$out/summary"
