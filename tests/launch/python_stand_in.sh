#!/usr/bin/env bash
# Stands in for a worker's Python: makes an environment that holds itself, writes down what pip and
# the jobs are called with, and ends each job with the next code of ~/codes (0 when there is none).
set -euo pipefail
case "$*" in
  --version) echo Python 3.11.9 ;;
  "-m venv "*)
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    ;;
  "-m pip "*) printf '%s\n' "$*" >>"$HOME/pip" ;;
  *check_workdir.py*) [[ ! -e $HOME/no-bucket ]] || exit "$(<"$HOME/no-bucket")" ;;
  "-m recallm_jax."*)
    printf '%s\0' "$@" >>"$HOME/argv"
    echo "a line of the job"
    code=0
    if [[ -s $HOME/codes ]]; then
      code=$(head -n 1 "$HOME/codes")
      sed -i 1d "$HOME/codes"
    fi
    if [[ $code == hang ]]; then
      trap 'exit 143' TERM
      sleep 60 &
      wait
    fi
    exit "$code"
    ;;
  -c*) ;;
  *) exit 64 ;;
esac
