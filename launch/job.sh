#!/usr/bin/env bash
# Runs on a worker of a TPU VM; tpu_vm.sh calls it over ssh. It starts the job so that it outlives
# the connection, starts it again after SIGTERM or a crash, says how it is doing, and ends it.
#
#   job.sh start [--restarts=N] [--pause=SECONDS] -- COMMAND ARGUMENT...
#   job.sh status
#   job.sh log [--lines=N] [--follow] [--label]
#   job.sh stop [--grace=SECONDS]
#   job.sh check gs://BUCKET/FOLDER
#
# All its files are in ~/recallm-jax-job: the command, the log (and log.1 of the job before),
# the state, two process numbers, and the lock that the loop and the job hold while they live.
set -euo pipefail

CLONE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CLONE
readonly KEPT=${RECALLM_JOB_FOLDER:-$HOME/recallm-jax-job}
# Exit codes of jobs (recallm_jax/runtime/errors.py).
readonly DONE=0 BAD_INPUT=2 UNAVAILABLE=75 INTERRUPTED=130 TERMINATED=143
# After an attempt of this many seconds, earlier crashes don't count any more.
readonly WELL=3600

die() {
  printf 'error: worker %s: %s\n' "$HOSTNAME" "$*" >&2
  exit "$BAD_INPUT"
}

# End for a reason that may pass by itself.
give_up() {
  printf 'unavailable: worker %s: %s\n' "$HOSTNAME" "$*" >&2
  exit "$UNAVAILABLE"
}

kept() { if [[ -e $KEPT/$1 ]]; then cat "$KEPT/$1"; fi; }

# Whether a job's loop, or a job that lost its loop, holds the lock.
is_locked() { [[ -e $KEPT/lock ]] && ! flock --nonblock "$KEPT/lock" true; }

start() {
  local restarts=3 pause=10
  while [[ ${1-} == --?* ]]; do
    case $1 in
      --restarts=*) restarts=${1#*=} ;;
      --pause=*) pause=${1#*=} ;;
      *) die "unknown flag $1" ;;
    esac
    shift
  done
  [[ ${1-} == -- && $# -gt 1 ]] || die "give the command after --"
  shift
  mkdir -p "$KEPT"
  exec 9>>"$KEPT/lock"
  flock --nonblock 9 ||
    die "a job runs already ($(kept command)); end it first: launch/tpu_vm.sh stop"
  rm -f "$KEPT/stopping" "$KEPT/pid" "$KEPT/child"
  [[ ! -e $KEPT/log ]] || mv "$KEPT/log" "$KEPT/log.1"
  # %q also keeps newlines on one line.
  (LC_ALL=C && printf '%q ' "$@") | sed 's/ $//' >"$KEPT/command"
  record starting - 0
  # A session of its own outlives the connection. It inherits the lock.
  setsid nohup "${BASH_SOURCE[0]}" loop "$restarts" "$pause" "$@" </dev/null >"$KEPT/log" 2>&1 &
  # Wait until the loop can be told to end.
  local looks=0
  until [[ -e $KEPT/pid ]]; do
    ((++looks < 200)) || die "the job's loop did not start; its log: $KEPT/log"
    sleep 0.05
  done
  printf 'worker=%s started\n' "$HOSTNAME"
}

# record STATE CODE RESTARTS: write the state whole, since status may read it at any time.
record() {
  printf 'state=%s code=%s restarts=%s\n' "$@" >"$KEPT/state.partial"
  mv "$KEPT/state.partial" "$KEPT/state"
}

note() { printf '%s launch: %s\n' "$(date -u +%FT%TZ)" "$*"; }

# The loop, in the background: run the job until it is done, or crashes too often.
loop() {
  local restarts=$1 pause=$2 crashes=0 again=0 code=$TERMINATED began
  shift 2
  cd "$CLONE"
  PATH=$CLONE/.venv/bin:$PATH
  CHILD="" ENDING=""
  trap 'ENDING=1; end_child TERM' TERM
  echo $$ >"$KEPT/pid"
  while [[ -z $ENDING ]]; do
    record running - "$again"
    note "start $(kept command)"
    began=$SECONDS
    run_once "$@"
    note "the job ended with exit code $code"
    ((SECONDS - began < WELL)) || crashes=0
    case $code in
      "$DONE" | "$BAD_INPUT" | "$INTERRUPTED") break ;;
      "$TERMINATED") ;;
      *)
        crashes=$((crashes + 1))
        if ((crashes > restarts)); then
          note "no further restart: it crashed $crashes times"
          break
        fi
        ;;
    esac
    [[ -z $ENDING ]] || break
    again=$((again + 1))
    record pausing "$code" "$again"
    note "restart in $pause s"
    sleep "$pause" &
    CHILD=$!
    # SIGTERM may have come before there was a pause to end.
    [[ -z $ENDING ]] || end_child TERM
    wait "$CHILD" || true
  done
  if [[ -e $KEPT/stopping ]]; then
    record stopped "$code" "$again"
  else
    record ended "$code" "$again"
  fi
}

# Run the command in a session of its own; set `code`. Processes that it leaves would hold the TPU.
run_once() {
  setsid "$@" &
  CHILD=$!
  echo "$CHILD" >"$KEPT/child"
  # SIGTERM may have come before there was a job to pass it to.
  [[ -z $ENDING ]] || end_child TERM
  code=0
  wait "$CHILD" || code=$?
  # A signal ends `wait` too, while the job goes on.
  while kill -0 "$CHILD" 2>/dev/null; do
    code=0
    wait "$CHILD" || code=$?
  done
  kill -KILL -- "-$CHILD" 2>/dev/null || true
}

end_child() { [[ -z $CHILD ]] || kill "-$1" "$CHILD" 2>/dev/null || true; }

status() {
  local state
  state=$(kept state)
  if is_locked; then
    [[ -n $state ]] || state="state=running code=- restarts=0"
  elif [[ -z $state ]]; then
    state="state=none code=- restarts=0"
  elif [[ $state != state=ended* && $state != state=stopped* ]]; then
    # The loop is gone without a word: the machine restarted, or someone killed it.
    state="state=dead code=- ${state##* }"
  fi
  printf 'worker=%s %s command=%s\n' "$HOSTNAME" "$state" "$(kept command)"
}

log() {
  local lines=100 follow=() label=""
  while (($#)); do
    case $1 in
      --lines=*) lines=${1#*=} ;;
      --follow) follow=(-F) ;;
      --label) label=1 ;;
      *) die "unknown flag $1" ;;
    esac
    shift
  done
  [[ -e $KEPT/log ]] || die "there is no log yet; start a job: launch/tpu_vm.sh run"
  # tail ends with the job.
  if [[ -n ${follow[*]} ]] && is_locked && [[ -e $KEPT/pid ]]; then
    follow+=("--pid=$(kept pid)")
  elif ! is_locked; then
    follow=()
  fi
  if [[ -n $label ]]; then
    tail -n "$lines" "${follow[@]}" "$KEPT/log" | sed -u "s/^/$HOSTNAME: /"
  else
    tail -n "$lines" "${follow[@]}" "$KEPT/log"
  fi
}

stop() {
  local grace=300 pid began=$SECONDS
  [[ ${1-} != --grace=* ]] || grace=${1#*=}
  if ! is_locked; then
    printf 'worker=%s no job runs\n' "$HOSTNAME"
    return
  fi
  # Tell the loop that the user ended the job, and not the machine.
  touch "$KEPT/stopping"
  pid=$(kept pid)
  [[ -z $pid ]] || kill -TERM "$pid" 2>/dev/null || true
  while is_locked; do
    if ((SECONDS - began >= grace)); then
      # The loop with its pause, and the job with its processes, are a session each.
      kill -KILL -- "-$pid" "-$(kept child)" 2>/dev/null || true
      while is_locked && ((SECONDS - began < grace + 10)); do sleep 0.1; done
      record stopped 137 0
      printf 'worker=%s killed after %s s\n' "$HOSTNAME" "$grace"
      return
    fi
    sleep 0.2
  done
  printf 'worker=%s stopped\n' "$HOSTNAME"
}

# Write and delete a file in the folder of the run with the VM's service account, as the job will.
check() {
  local account code=0 bucket=${1#gs://}
  bucket=gs://${bucket%%/*}
  "$CLONE/.venv/bin/python" "$CLONE/launch/check_workdir.py" "$1" || code=$?
  ((code)) || return 0
  ((code != UNAVAILABLE)) || give_up "$1 can't be reached; when the network is back, run it again"
  ((code != 3)) || die "bucket $bucket doesn't exist; make it: gcloud storage buckets create $bucket"
  account=$(curl -sf -m 5 -H 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/email) ||
    account="the VM's service account"
  die "$account may not write to $1; grant it roles/storage.objectUser and roles/storage.legacyBucketReader: gcloud storage buckets add-iam-policy-binding $bucket --member=serviceAccount:$account --role=ROLE"
}

case ${1-} in
  start | loop | status | log | stop | check) "$@" ;;
  -h | --help | help) awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "${BASH_SOURCE[0]}" ;;
  *) die "unknown command '${1-}'; see launch/job.sh --help" ;;
esac
