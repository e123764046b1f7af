#!/usr/bin/env bash
# Keeps a job running on a TPU VM that may be taken away: launch/supervise.sh --help.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# After so many polls in a row that don't reach a worker, its machine counts as lost.
readonly PATIENCE=3
# Once all workers were seen running for this many seconds, earlier losses don't count any more.
readonly WELL=${RECALLM_WELL:-3600}

usage() {
  cat <<'END'
Keeps a job running on a TPU VM that may be taken away: creates the VM, sets it up, runs the job, and
does so again after a preemption. Training and evaluation go on from their --workdir, which must be
on gs://. It ends when the job is done or can't go on. launch/README.md says who restarts what.

  launch/supervise.sh --name=NAME --zone=ZONE --accelerator-type=TYPE [FLAGS]
    -- python -m recallm_jax.train --config=... --workdir=gs://...

The job's config is checked here first, with the Python of the clone's .venv. Stopped and started
again with the same command, it goes on watching what is there.

The VM, as in launch/tpu_vm.sh create and setup:
  --name=NAME, --zone=ZONE, --project=PROJECT, --accelerator-type=TYPE, --spot, --queued,
  --valid-until-duration=TIME, --service-account=EMAIL, --bucket=gs://BUCKET,
  --runtime-version=VERSION, --create-flag=FLAG, --committed, --python=PATH
The job:
  --restarts=N            how often a failed job is started again; 3
  --pause=SECONDS         before a worker starts it again; 10, on several hosts 150
  --grace=SECONDS         how long a job may take to save before it is ended; 300
  --again                 run it once more, although it had ended with code 0
The watch:
  --recreations=N         how many losses of the VM without an hour of work between; 20
  --poll=SECONDS          between two looks; 60
  --look-limit=SECONDS    how long a look may take; 300
  --delete                delete the VM when the job is done
  --iap, --internal-ip    how ssh reaches the VM
  --dry-run               print every gcloud command, and run none
END
}

tpu_vm() { "$LAUNCH/tpu_vm.sh" "$@"; }

# tpu_vm_do SUBCOMMAND FLAG-NAMES...: call tpu_vm.sh with the named flags, where we have them.
tpu_vm_do() {
  local command=$1 name arguments=("${TARGET[@]}")
  shift
  for name in "$@" dry-run; do
    [[ -n ${FLAGS[$name]-} ]] || continue
    case $name in
      spot | queued | committed | iap | internal-ip | dry-run) arguments+=("--$name") ;;
      *) arguments+=("--$name=${FLAGS[$name]}") ;;
    esac
  done
  if [[ $command == create ]]; then
    local flag
    for flag in "${CREATE_FLAGS[@]}"; do arguments+=("--create-flag=$flag"); done
  elif [[ $command == run ]]; then
    arguments+=(-- "${JOB[@]}")
  fi
  tpu_vm "$command" "${arguments[@]}"
}

create() { tpu_vm_do create accelerator-type runtime-version spot queued valid-until-duration service-account bucket poll; }
setup() { tpu_vm_do setup committed python iap internal-ip; }
# Delete the VM and its request, and try until nothing is left.
remove() {
  local code
  while :; do
    code=0
    tpu_vm_do delete poll || code=$?
    ((code)) || break
    retry_later "$code" deleting
  done
  LEFT=0
}
run() { tpu_vm_do run accelerator-type restarts pause iap internal-ip; }

# Print one word for the VM's state: absent, waiting, failed (in the queue), ready, lost or stopped.
# After waiting comes what it waits for.
condition() {
  local queued vm
  queued=$(queued_state) || exit
  case $queued in
    "" | ACTIVE) ;;
    SUSPENDED) echo lost && return ;;
    FAILED) echo failed && return ;;
    *) echo "waiting queued resource: $queued" && return ;;
  esac
  vm=$(vm_state) || exit
  case $vm in
    READY) echo ready ;;
    "") if [[ -n $queued ]]; then echo "waiting queued resource: $queued, VM: none"; else echo absent; fi ;;
    PREEMPTED | TERMINATED | UNKNOWN) echo lost ;;
    STOPPING | STOPPED | HIDING | HIDDEN) echo stopped ;;
    *) echo "waiting VM: $vm" ;;
  esac
}

# Print a line for each worker with the state of its job. A worker without our scripts answers too.
job_states() {
  LIMIT=$LOOK_LIMIT on_workers all "if [ -x $REMOTE/launch/job.sh ]; then $REMOTE/launch/job.sh status; else echo \"worker=\$(hostname) state=unset code=- restarts=0 command=\"; fi" |
    grep '^worker='
}

is_ours() { [[ $1 == *" command=$COMMAND" || $1 == *" command=$COMMAND --distributed" ]]; }

# Copy the lines of workers, without the states that other jobs left there.
forget_others() {
  local line
  while read -r line; do
    is_ours "$line" || line="${line%% *} state=none code=- restarts=0 command="
    printf '%s\n' "$line"
  done
}

# End if another job runs.
refuse_others() {
  local line
  while read -r line; do
    [[ -z $line ]] || is_ours "$line" ||
      die "another job runs on $NAME (${line#*command=}); end it first: $(quote launch/tpu_vm.sh stop "${TARGET[@]}")"
  done < <(with_state "$ACTIVE")
}

with_state() { grep -E "^worker=[^ ]+ state=($1) " <<<"$STATES" || true; }
count() { grep -c . <<<"$1" || true; }

# Say that an attempt failed, and wait for the next; end if there were too many.
retry_later() {
  local code=$1 what=$2
  passes "$code" || exit "$code"
  FAILURES=$((FAILURES + 1))
  ((FAILURES <= RECREATIONS)) || give_up "$what failed $FAILURES times; see above"
  say "$what failed; trying again in $POLL s ($FAILURES of $RECREATIONS)"
  sleep "$POLL"
}

# A long job on a spot VM loses it now and then. Losses are forgotten if it worked well in between.
forget_losses() {
  if (($(count "$(with_state running)") < $1)); then
    WELL_SINCE=""
    return
  fi
  WELL_SINCE=${WELL_SINCE:-$SECONDS}
  ((SECONDS - WELL_SINCE < WELL)) || LOSSES=0
}

# Count a machine that was lost; end when there were too many.
count_loss() {
  WELL_SINCE=""
  LOSSES=$((LOSSES + 1))
  ((LOSSES <= RECREATIONS)) ||
    give_up "$NAME was lost $LOSSES times without an hour of work between; start the same command again, with a larger --recreations"
  say "$(date +%T) $NAME: $1 (loss $LOSSES of $RECREATIONS)"
}

replace() {
  count_loss "$1; creating it again"
  remove
}

create_and_run() {
  local code=0 left=""
  LEFT=1
  create || code=$?
  if ((code == 0)); then
    set_up_and_run
    return
  fi
  # Create has said why it failed. If this look fails too, something may be left.
  left=$(condition 2>/dev/null) || true
  [[ $left != absent ]] || LEFT=0
  passes "$code" || exit "$code"
  case $left in
    "" | absent) ;;
    # A failed request stays in the queue and holds the name.
    lost | failed) remove ;;
    # A request keeps its place in the queue, and a VM that came is used.
    *) return ;;
  esac
  if ((code == NO_CAPACITY)); then
    # This can take hours. It doesn't count as a failure.
    say "asking again in $POLL s, until there is capacity"
    sleep "$POLL"
  else
    retry_later "$code" creating
  fi
}

set_up_and_run() {
  local code=0
  setup || code=$?
  ((code)) || run || code=$?
  if ((code)); then
    retry_later "$code" "setting up and starting"
  else
    FAILURES=0 RESTARTING=0 SEEN=1
  fi
}

# End the jobs of all workers and start them together: a slice can't go on without one of them. If
# that fails, the next look tries it again.
restart_all() {
  local code=0
  RESTARTING=1
  say "ending the jobs of all workers and starting them together"
  # A worker that isn't set up has no job to end.
  tpu_vm_do stop grace iap internal-ip || code=$?
  if passes "$code"; then retry_later "$code" "ending the jobs"; else set_up_and_run; fi
}

# Handle workers that don't answer. If none does, it may be our own connection.
unreached() {
  local answered=$1 workers=$2
  UNREACHED=$((UNREACHED + 1))
  say "$((workers - answered)) of $workers workers of $NAME can't be reached (look $UNREACHED)"
  if ((answered == 0)); then
    explain || true
  elif ((UNREACHED >= PATIENCE)); then
    UNREACHED=0
    replace "a worker died"
  fi
}

# Look at the jobs of a VM that is there.
attend() {
  local workers answered code=0 found
  workers=$(worker_count) || code=$?
  if ((code)); then
    passes "$code" || exit "$code"
    return
  fi
  STATES=$(job_states) || code=$?
  answered=$(count "$STATES")
  if ((code || answered < workers)); then
    unreached "$answered" "$workers"
    return
  fi
  UNREACHED=0
  refuse_others
  STATES=$(forget_others <<<"$STATES")
  if ((RESTARTING)); then
    restart_all
    return
  fi
  if ((!SEEN)) && [[ -z $(with_state "$ACTIVE") ]]; then
    # Nothing runs yet. What ended this job before may have been mended since.
    if (($(count "$(with_state ended | grep ' code=0 ')") < workers)) || [[ -n ${FLAGS[again]-} ]]; then
      set_up_and_run
    else
      say "the same command ended with code 0 before this watch began; to run it again: --again"
      FINISHED=1
    fi
    return
  fi
  SEEN=1
  forget_losses "$workers"
  # This comes first: jobs that waited in vain for this worker may have ended with any code.
  found=$(
    with_state 'dead|none|unset'
    with_state ended | grep ' code=143 ' || true
  )
  if [[ -n $found ]]; then
    count_loss "a worker restarted: ${found%% restarts=*}"
    restart_all
    return
  fi
  found=$(with_state ended | grep ' code=2 ' || true)
  [[ -z $found ]] || die "the job ended with code 2 on ${found%% state=*}, for bad input; its log says which: $LOGS"
  found=$(with_state stopped)
  [[ -z $found ]] || give_up "the job was stopped on ${found%% state=*} (launch/tpu_vm.sh stop); to start it again: the same command"
  # The worker has used up its own restarts.
  found=$(with_state ended | grep -v ' code=0 ' || true)
  if [[ -n $found ]]; then
    FAILED=$((FAILED + 1))
    ((FAILED <= RESTARTS)) || give_up "the job failed $FAILED times, last: ${found%% restarts=*}; its log says why: $LOGS"
    say "the job failed: ${found%% restarts=*} (restart $FAILED of $RESTARTS)"
    restart_all
    return
  fi
  if (($(count "$(with_state ended)") == workers)); then FINISHED=1; fi
}

# However this ends, say what still costs money.
leave() {
  local code=$?
  trap - EXIT INT TERM HUP
  rm -rf "$SCRATCH"
  if ((LEFT)); then
    if ((code == 130)); then
      say "no longer watching; what runs on $NAME goes on. Watch again: the same command"
    fi
    say "$NAME may still be there and cost money; look: $(quote launch/tpu_vm.sh status "${TARGET[@]}"); delete it: $(delete_command)"
  fi
  exit "$code"
}

main() {
  parse_flags "-- accelerator-type= runtime-version= spot queued valid-until-duration= service-account= bucket= create-flag= committed python= restarts= pause= grace= recreations= poll= look-limit= delete again iap internal-ip" "$@"
  read_target
  read_connection
  ((${#JOB[@]})) || die "which job? give it after --: launch/supervise.sh … -- python -m recallm_jax.train …"
  [[ " ${JOB[*]}" == *" --workdir"[=\ ]"gs://"* ]] ||
    die "the job needs --workdir=gs://BUCKET/FOLDER: files on a VM are lost with it"
  TYPE=${FLAGS[accelerator-type]:-${TPU_VM_TYPE-}}
  ! has_several_hosts "$TYPE" ||
    check_for_several_hosts "give a type of one host, or run it on a VM that is there: launch/tpu_vm.sh run --worker=0 -- env JAX_PLATFORMS=cpu python -m …"
  check_config_here "$TYPE"
  # Once: what is edited here later is not what runs there.
  export RECALLM_CHECKED=1
  POLL=$(number_flag poll 60)
  RESTARTS=$(number_flag restarts 3)
  RECREATIONS=$(number_flag recreations 20)
  # A dead worker takes gcloud 200 s by itself.
  LOOK_LIMIT=$(number_flag look-limit 300)
  FLAGS["poll"]=$POLL
  # Our attempts that failed in a row, jobs that failed, machines that were lost.
  FAILURES=0 FAILED=0 LOSSES=0 UNREACHED=0 WELL_SINCE=""
  # Whether our job has been seen, is between two starts, is done; whether a VM may be left.
  SEEN=0 RESTARTING=0 FINISHED=0 LEFT=0
  if is_dry; then
    create
    setup
    run
    return
  fi
  # The command as the workers keep it; on several hosts run adds a flag after it.
  COMMAND=$(LC_ALL=C && printf '%q ' "${JOB[@]}")
  COMMAND=${COMMAND% }
  LOGS=$(quote launch/tpu_vm.sh logs "${TARGET[@]}" --worker=all --no-follow)

  LEFT=1
  trap leave EXIT
  trap 'exit 130' INT TERM HUP
  local now code told=""
  while ((!FINISHED)); do
    code=0
    now=$(condition) || code=$?
    [[ $now == absent ]] || LEFT=1
    case $now in
      absent) create_and_run ;;
      lost) replace "it was taken away" ;;
      failed)
        # There never was a VM, so this is not a loss.
        remove
        retry_later "$TRANSIENT" "the request in the queue"
        ;;
      stopped) die "$NAME is stopped; start it: $(quote gcloud compute tpus tpu-vm start "$NAME" "${PLACE[@]}")" ;;
      waiting*)
        [[ $now == "$told" ]] || say "$(date +%T) $NAME: waiting (${now#* })"
        told=$now
        sleep "$POLL"
        ;;
      ready)
        attend
        ((FINISHED)) || sleep "$POLL"
        ;;
      *)
        # There may be no connection; the VM goes on meanwhile.
        passes "$code" || exit "$code"
        sleep "$POLL"
        ;;
    esac
  done
  say "the job is done"
  if [[ -n ${FLAGS[delete]-} ]]; then
    remove
  fi
}

help_wanted "$@"
main "$@"
