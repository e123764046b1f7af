#!/usr/bin/env bash
# Drives recallm-jax on a Google Cloud TPU VM from your own machine: launch/tpu_vm.sh --help.
# Nothing is remembered between two calls: gcloud is asked what exists.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# jax.distributed ends the peers of a silent process after 100 s, and waits 300 s for all to come.
# After this pause no old process is left, and the first to start still waits for the last.
readonly PAUSE_ALONE=10 PAUSE_TOGETHER=150
# How many looks in a row at a waiting request may fail: the request itself goes on.
readonly LOOKS=20

usage() {
  cat <<'END'
Drives recallm-jax on a Google Cloud TPU VM from your own machine. launch/README.md is the tour.

  launch/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [--project=PROJECT] [--dry-run] [FLAGS]

create    Make the VM, or ask for it in the queue. From then on it costs money.
          --accelerator-type=TYPE        such as v6e-8, v5litepod-8, v5p-8
          --spot                         cheaper; it may be taken away at any time
          --queued                       wait in the queue until there is capacity
          --no-wait                      with --queued: don't wait here
          --valid-until-duration=TIME    with --queued: give up after it, such as 6h
          --service-account=EMAIL        the account by which jobs read and write gs://
          --bucket=gs://BUCKET           check first that it is there
          --runtime-version=VERSION      the VM's software; chosen by the type
          --create-flag=FLAG             a further flag of gcloud's create; may be repeated
          --poll=SECONDS                 between two looks at the queue; 30
setup     Copy the last commit to all workers, and install it there.
          --committed                    although the clone has uncommitted changes
          --python=PATH                  the interpreter on the VM
run       Start a job: run [FLAGS] -- python -m recallm_jax.train --config=... --workdir=...
          Its config is checked here first, with the Python of the clone's .venv.
          --worker=NUMBER                on one worker; all
          --restarts=N                   how often a crash starts it again; 3
          --pause=SECONDS                before it starts again; 10, on several hosts 150
          --accelerator-type=TYPE        for the check of the mesh, and for --dry-run
status    Show the request, the VM, and the job of each worker.
logs      Show the job's output until it ends.
          --worker=NUMBER                0, or all
          --lines=N                      how many of those there are; 100
          --no-follow                    end at once
stop      Let the job finish its step and save, then end it.
          --grace=SECONDS                how long it may take; 300
fetch     Copy the files of a run to this machine.
          --workdir=FOLDER               on gs://, or on worker 0
          --to=FOLDER                    runs/fetched
          --checkpoints                  these too
delete    Delete the VM and its request, and wait until nothing is left.
          --poll=SECONDS, --tries=N      how it waits; 10, 30

Every command:
          --name=NAME                    or TPU_VM_NAME
          --zone=ZONE                    or TPU_VM_ZONE
          --project=PROJECT              or TPU_VM_PROJECT, or gcloud's own
          --dry-run                      print every gcloud command, and run none
Those that open ssh (setup, run, status, logs, stop, fetch):
          --iap                          through Identity-Aware Proxy
          --internal-ip                  from a machine in the same network
TPU_VM_TYPE takes the place of --accelerator-type.
END
}

# Refuse a TYPE that doesn't exist; set RUNTIME, the software version of its generation's images.
check_type() {
  local generation=${TYPE%-*} size=${TYPE##*-} sizes="" largest=""
  case $generation in
    v4) RUNTIME=tpu-ubuntu2204-base largest=8192 ;;
    v5p) RUNTIME=v2-alpha-tpuv5 largest=12288 ;;
    v5litepod) RUNTIME=v2-alpha-tpuv5-lite sizes="1 4 8 16 32 64 128 256" ;;
    v6e) RUNTIME=v2-alpha-tpuv6e sizes="1 4 8 16 32 64 128 256" ;;
    v5e) die "--accelerator-type=$TYPE: gcloud calls v5e v5litepod; give v5litepod-$size" ;;
    *) die "--accelerator-type=$TYPE doesn't exist here; give v4-N or v5p-N (N TensorCores), v5litepod-N or v6e-N (N chips)" ;;
  esac
  if [[ -n $sizes ]]; then
    [[ " $sizes " == *" $size "* ]] ||
      die "--accelerator-type=$TYPE doesn't exist; $generation has sizes ${sizes// /, }"
  else
    # Two cores a chip, four chips a host; from 128 cores on in cubes of 4x4x4 chips.
    if ! [[ $size =~ ^[1-9][0-9]{0,4}$ ]] || ((size > largest || size % 128)); then
      [[ " 8 16 32 64 " == *" $size "* ]] ||
        die "--accelerator-type=$TYPE doesn't exist; $generation has sizes 8, 16, 32, 64, and multiples of 128 up to $largest"
    fi
  fi
  RUNTIME=${FLAGS[runtime-version]:-$RUNTIME}
}

# End if the bucket can't be used, before anything costs money.
check_bucket() {
  local bucket=$1
  [[ $bucket =~ ^gs://[a-z0-9][a-z0-9._-]{2,}$ ]] || die "--bucket=$bucket must look like gs://NAME"
  call storage buckets describe "$bucket" '--format=value(location)' >/dev/null && return
  if grep -q -e ' 404' -e 'not found' -e 'does not exist' "$SCRATCH/stderr"; then
    die "bucket $bucket doesn't exist; make it: gcloud storage buckets create $bucket --location=${ZONE%-*}"
  elif grep -q -e ' 403' -e 'does not have' -e PERMISSION_DENIED "$SCRATCH/stderr"; then
    die "you may not use bucket $bucket; ask its owner for roles/storage.admin on it, or give another --bucket"
  fi
  explain_and_exit
}

create() {
  parse_flags "accelerator-type= runtime-version= spot queued no-wait valid-until-duration= service-account= bucket= create-flag= poll=" "$@"
  read_target
  TYPE=${FLAGS[accelerator-type]:-${TPU_VM_TYPE-}}
  [[ -n $TYPE ]] || die "which TPU? give --accelerator-type=TYPE (such as v6e-8), or set TPU_VM_TYPE"
  check_type
  local poll flag
  poll=$(number_flag poll 30)
  for flag in no-wait valid-until-duration; do
    [[ -z ${FLAGS[$flag]-} || -n ${FLAGS[queued]-} ]] || die "--$flag needs the queue; add --queued"
  done
  [[ -z ${FLAGS[bucket]-} ]] || check_bucket "${FLAGS[bucket]}"

  local common=("${PLACE[@]}" "--accelerator-type=$TYPE")
  [[ -z ${FLAGS[service-account]-} ]] || common+=("--service-account=${FLAGS[service-account]}")
  [[ -z ${FLAGS[spot]-} ]] || common+=(--spot)
  common+=("${CREATE_FLAGS[@]}")
  trap interrupted INT TERM HUP
  if [[ -n ${FLAGS[queued]-} ]]; then
    [[ -z ${FLAGS[valid-until-duration]-} ]] ||
      common+=("--valid-until-duration=${FLAGS[valid-until-duration]}")
    call compute tpus queued-resources create "$NAME" "--node-id=$NAME" "--runtime-version=$RUNTIME" \
      "${common[@]}" || creation_failed
    [[ -n ${FLAGS[no-wait]-} ]] || await_active "$poll"
  else
    is_dry || say "creating $NAME ($TYPE) in $ZONE; this takes minutes, and from then on it costs money"
    call compute tpus tpu-vm create "$NAME" "--version=$RUNTIME" "${common[@]}" || creation_failed
  fi
  trap - INT TERM HUP
  if is_dry; then
    return
  elif [[ -n ${FLAGS[no-wait]-} ]]; then
    say "$NAME waits in the queue; when its time comes it is a VM that costs money; look: $(quote launch/tpu_vm.sh status "${TARGET[@]}"); delete it: $(delete_command)"
  else
    say "$NAME is ready; it costs money until: $(delete_command)"
  fi
}

interrupted() {
  trap - INT TERM HUP
  say "interrupted: $NAME may exist or be on its way, and cost money; delete it: $(delete_command)"
  exit 130
}

# Say why creation failed, and what is left of it.
creation_failed() {
  local code=0 queued vm
  explain || code=$?
  if grep -q -e ALREADY_EXISTS -e 'already exists' "$SCRATCH/stderr"; then exit "$code"; fi
  if queued=$(queued_state) && vm=$(vm_state); then
    if [[ -n $queued$vm ]]; then
      say "$NAME is left (${queued:+queued resource: $queued}${queued:+${vm:+, }}${vm:+VM: $vm}); delete it: $(delete_command)"
    else
      say "nothing is left of $NAME"
    fi
  else
    say "$NAME may be left; delete it: $(delete_command)"
  fi
  exit "$code"
}

# Wait in the queue until the VM is there.
await_active() {
  local poll=$1 state="" before="" code failed=0
  while :; do
    code=0
    state=$(queued_state 2>"$SCRATCH/said") || code=$?
    if is_dry; then return; fi
    if ((code)); then
      failed=$((failed + 1))
      if ! passes "$code" || ((failed > LOOKS)); then
        cat "$SCRATCH/said" >&2
        say "$NAME may still wait in the queue, or be a VM and cost money; look: $(quote launch/tpu_vm.sh status "${TARGET[@]}"); delete it: $(delete_command)"
        exit "$code"
      fi
      ((failed > 1)) ||
        say "$(date +%T) $NAME: a look failed, and is tried again every $poll s: $(sed 's/^error: //' "$SCRATCH/said")"
      sleep "$poll"
      continue
    fi
    failed=0
    [[ $state == "$before" ]] || say "$(date +%T) $NAME: ${state:-gone from the queue}"
    before=$state
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDED)
        give_up "the request for $NAME ended as $state (no capacity in time, or preempted); delete it, then create it again: $(delete_command)"
        ;;
      "") give_up "$NAME is no longer in the queue: someone deleted it; create it again" ;;
    esac
    sleep "$poll"
  done
}

setup() {
  parse_flags "committed python= iap internal-ip" "$@"
  read_target
  read_connection
  local clone=${LAUNCH%/*} changed
  changed=$(git -C "$clone" status --porcelain) || die "$clone is not a git clone; launch from one"
  [[ -z $changed || -n ${FLAGS[committed]-} ]] ||
    die "$clone has uncommitted changes ($(wc -l <<<"$changed" | tr -d ' ') files); commit them, or send the last commit without them: --committed"
  git -C "$clone" archive --format=tar.gz -o "$SCRATCH/clone.tar.gz" HEAD
  is_dry || say "copying commit $(git -C "$clone" rev-parse --short HEAD) to all workers of $NAME"
  copy "$SCRATCH/clone.tar.gz" "$NAME:$REMOTE.new.tar.gz" --worker=all
  # The code of a running job must not change.
  local stop guard
  stop=$(quote launch/tpu_vm.sh stop "${TARGET[@]}")
  guard="if [ -x $REMOTE/launch/job.sh ] && $REMOTE/launch/job.sh status | grep -qE ' state=($ACTIVE) '; then echo \"error: worker \${HOSTNAME:-\$(hostname)}: a job runs, and its code would change under it; end it first: $stop\" >&2; exit $BAD_INPUT; fi"
  # Files of an earlier copy are deleted first; files that runs wrote beside them stay.
  local unpack="mkdir -p $REMOTE && if [ -e $REMOTE.tar.gz ]; then tar -tzf $REMOTE.tar.gz | grep -v '/\$' | (cd $REMOTE && xargs -d '\\n' rm -f); fi && mv $REMOTE.new.tar.gz $REMOTE.tar.gz && tar -xzf $REMOTE.tar.gz -C $REMOTE"
  local bootstrap="$REMOTE/launch/bootstrap.sh"
  [[ -z ${FLAGS[python]-} ]] || bootstrap="PYTHON=$(quote "${FLAGS[python]}") $bootstrap"
  on_workers all "$guard; $unpack && $bootstrap" || explain_and_exit
  is_dry || say "$NAME is set up"
}

# Print the job's --workdir; nothing if it has none.
workdir_of_job() {
  local argument before=""
  for argument in "${JOB[@]}"; do
    case $argument in
      --workdir=*) printf '%s' "${argument#--workdir=}" && return ;;
    esac
    [[ $before != --workdir ]] || { printf '%s' "$argument" && return; }
    before=$argument
  done
}

# distribute WORKERS: make JOB run on so many hosts at once.
distribute() {
  check_for_several_hosts "choose one of them, without its TPU, which all hosts of a slice open together: --worker=0 -- env JAX_PLATFORMS=cpu python -m …"
  if [[ " ${JOB[*]} " != *" --distributed "* ]]; then
    if [[ -z $(job_name) ]]; then
      is_dry || say "neither --distributed nor one of recallm_jax's jobs: each of the $1 hosts runs it by itself, and none finds the others"
      return
    fi
    JOB+=(--distributed)
  fi
  PAUSE=$PAUSE_TOGETHER
}

run() {
  parse_flags "-- worker= restarts= pause= accelerator-type= iap internal-ip" "$@"
  read_target
  read_connection
  ((${#JOB[@]})) || die "which job? give it after --: launch/tpu_vm.sh run -- python -m recallm_jax.train …"
  local worker=${FLAGS[worker]:-all} restarts workdir workers states
  [[ $worker == all || $worker =~ ^[0-9]+$ ]] || die "--worker=$worker must be all, or a worker's number"
  restarts=$(number_flag restarts 3)
  check_config_here "${FLAGS[accelerator-type]:-${TPU_VM_TYPE-}}"
  workdir=$(workdir_of_job)
  workers=$(worker_count)
  # A dry run asks nothing: the accelerator type says whether there are several hosts.
  if is_dry; then
    TYPE=${FLAGS[accelerator-type]:-${TPU_VM_TYPE:-v6e-8}}
    check_type
    if has_several_hosts "$TYPE"; then workers=2; else workers=1; fi
  fi
  ((workers)) || die "there is no VM $NAME in $ZONE; create it: $(quote launch/tpu_vm.sh create "${TARGET[@]}")"
  PAUSE=$PAUSE_ALONE
  if [[ $worker == all ]] && ((workers > 1)); then
    [[ -z $workdir || $workdir == gs://* ]] ||
      die "--workdir=$workdir would be another folder on each of the $workers hosts; give one on gs://"
    distribute "$workers"
  fi
  PAUSE=$(number_flag pause "$PAUSE")

  local script="$REMOTE/launch/job.sh"
  states=$(on_workers "$worker" "$script status") || explain_and_exit
  ! grep -E " state=($ACTIVE) " <<<"$states" >&2 ||
    die "a job runs already on $NAME; wait for it, or end it: $(quote launch/tpu_vm.sh stop "${TARGET[@]}")"
  [[ $workdir != gs://* ]] || on_workers "${worker/all/0}" "$script check $(quote "$workdir")" >/dev/null || explain_and_exit
  if ! on_workers "$worker" "$script start --restarts=$restarts --pause=$PAUSE -- $(quote "${JOB[@]}")"; then
    local code=0
    explain || code=$?
    say "the job may have started on some workers; end it there: $(quote launch/tpu_vm.sh stop "${TARGET[@]}")"
    exit "$code"
  fi
  is_dry || say "started; follow it: $(quote launch/tpu_vm.sh logs "${TARGET[@]}")"
}

status() {
  parse_flags "iap internal-ip" "$@"
  read_target
  read_connection
  local queued vm
  queued=$(queued_state)
  vm=$(vm_state)
  is_dry || printf 'queued resource: %s\nVM: %s\n' "${queued:-none}" "${vm:-none}"
  if is_dry || [[ $vm == READY ]]; then
    on_workers all "$REMOTE/launch/job.sh status" || explain_and_exit
  fi
}

logs() {
  parse_flags "worker= lines= no-follow iap internal-ip" "$@"
  read_target
  read_connection
  local worker=${FLAGS[worker]:-0} lines arguments
  lines=$(number_flag lines 100)
  arguments="--lines=$lines"
  [[ -n ${FLAGS[no-follow]-} ]] || arguments+=" --follow"
  [[ $worker =~ ^[0-9]+$ ]] || arguments+=" --label"
  on_workers "$worker" "$REMOTE/launch/job.sh log $arguments" || explain_and_exit
}

stop() {
  parse_flags "grace= iap internal-ip" "$@"
  read_target
  read_connection
  local grace
  grace=$(number_flag grace 300)
  on_workers all "$REMOTE/launch/job.sh stop --grace=$grace" || explain_and_exit
}

fetch() {
  parse_flags "workdir= to= checkpoints iap internal-ip" "$@"
  read_target
  read_connection
  local workdir=${FLAGS[workdir]-} to=${FLAGS[to]:-runs/fetched}
  [[ -n $workdir ]] || die "which run? give --workdir=gs://BUCKET/FOLDER, or a folder on worker 0"
  workdir=${workdir%/}
  is_dry || mkdir -p "$to"
  if [[ $workdir == gs://* ]]; then
    local without="checkpoints|programs"
    [[ -z ${FLAGS[checkpoints]-} ]] || without=programs
    if ! call storage rsync --recursive "--exclude=(.*/)?($without)/.*" "$workdir" "$to"; then
      if grep -q -e ' 403' -e 'does not have' "$SCRATCH/stderr"; then
        die "you may not read $workdir; ask its owner for roles/storage.objectViewer on the bucket"
      elif grep -q -e ' 404' -e 'not found' -e 'Did not find' -e 'does not exist' "$SCRATCH/stderr"; then
        die "$workdir doesn't exist; look: gcloud storage ls ${workdir%/*}"
      fi
      explain_and_exit
    fi
  else
    local exclude="--exclude=./programs --exclude=./checkpoints "
    [[ -z ${FLAGS[checkpoints]-} ]] || exclude="--exclude=./programs "
    # A relative folder is inside the clone, where jobs run.
    [[ $workdir == /* ]] || workdir=$REMOTE/$workdir
    on_workers 0 "tar $exclude-czf $REMOTE.fetch.tar.gz -C $(quote "$workdir") ." || explain_and_exit
    copy "$NAME:$REMOTE.fetch.tar.gz" "$SCRATCH/fetch.tar.gz" --worker=0
    is_dry || tar -xzf "$SCRATCH/fetch.tar.gz" -C "$to"
  fi
  is_dry || say "fetched $workdir to $to"
}

delete() {
  parse_flags "poll= tries=" "$@"
  read_target
  local queued vm poll tries found=""
  poll=$(number_flag poll 10)
  tries=$(number_flag tries 30)
  queued=$(queued_state)
  if is_dry || [[ -n $queued && $queued != DELETING ]]; then
    # --force deletes the request's VM first.
    must compute tpus queued-resources delete "$NAME" "${PLACE[@]}" --force --quiet
  fi
  found=$queued
  vm=$(vm_state)
  found+=$vm
  if is_dry || [[ -n $vm && $vm != DELETING ]]; then
    must compute tpus tpu-vm delete "$NAME" "${PLACE[@]}" --quiet
  fi
  while :; do
    queued=$(queued_state)
    vm=$(vm_state)
    if is_dry; then return; fi
    if [[ -z $queued$vm ]]; then
      if [[ -n $found ]]; then
        say "nothing is left of $NAME in $ZONE"
      else
        say "there was nothing called $NAME in $ZONE; all zones: gcloud compute tpus tpu-vm list --zone=-${PLACE[1]:+ ${PLACE[1]}}"
      fi
      return
    fi
    ((tries > 0)) ||
      give_up "$NAME is still there (queued resource: ${queued:-none}, VM: ${vm:-none}) and costs money; delete it again: $(delete_command)"
    tries=$((tries - 1))
    sleep "$poll"
  done
}

help_wanted "$@"
case ${1-} in
  create | setup | run | status | logs | stop | fetch | delete) "$@" ;;
  *) die "unknown command '${1-}'; one of create, setup, run, status, logs, stop, fetch, delete; see launch/tpu_vm.sh --help" ;;
esac
