# shellcheck shell=bash disable=SC2034
# Sourced by tpu_vm.sh and supervise.sh: flags, messages, and every call of gcloud.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash $BASH_VERSION is too old; install bash 4.4 or newer (macOS: brew install bash)" >&2
  exit 2
fi

# A command that fails inside $(...) ends what it is in, as set -e does elsewhere.
shopt -s inherit_errexit

# Exit codes: the user can mend it; it may pass by itself (a lost connection); the zone has no TPU
# to give now.
readonly BAD_INPUT=2 TRANSIENT=1 NO_CAPACITY=3
# The states that launch/job.sh gives for a job that has not ended.
readonly ACTIVE="starting|running|pausing"
# gcloud tries ten times to reach a worker. By itself ssh waits minutes each time, and for ever if the
# worker dies while it is connected.
readonly SSH_OPTIONS=(-oConnectTimeout=15 -oServerAliveInterval=15 -oServerAliveCountMax=4)
# The folder of the clone on each worker, relative to the home folder that ssh and scp begin in.
readonly REMOTE=recallm-jax
LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly LAUNCH
SCRIPT=launch/${0##*/}
readonly SCRIPT

declare -A FLAGS=()
LIMIT=0         # seconds that a call of gcloud may take; 0 for no limit
CREATE_FLAGS=() # flags that --create-flag passes to gcloud's create commands
JOB=()          # the arguments after --
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
# Commands that a dry run prints go to the real stdout, also from inside $(...).
exec 3>&1

say() { printf '%s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit "$BAD_INPUT"
}

# End for a reason that is not bad input.
give_up() {
  printf 'error: %s\n' "$*" >&2
  exit "$TRANSIENT"
}

# Print arguments as one line that any POSIX shell would read back.
quote() {
  local line="" argument apostrophe="'" escaped="'\\''"
  for argument in "$@"; do
    if ! [[ $argument =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      argument="'${argument//"$apostrophe"/"$escaped"}'"
    fi
    line+=" $argument"
  done
  printf '%s' "${line# }"
}

# Print usage and end, if that is what the arguments before -- ask for.
help_wanted() {
  local argument
  for argument in "$@"; do
    case $argument in
      --) return ;;
      -h | --help | help) usage && exit ;;
    esac
  done
}

# parse_flags "NAME= SWITCH ..." ARGUMENT...: fill FLAGS, CREATE_FLAGS and, after --, JOB.
parse_flags() {
  local known=" $1 name= project= zone= dry-run " argument name
  shift
  while (($#)); do
    argument=$1
    shift
    name=${argument#--}
    name=${name%%=*}
    case $argument in
      --)
        [[ $known == *" -- "* ]] || die "this command takes nothing after --; see $SCRIPT --help"
        JOB=("$@")
        return
        ;;
      --create-flag=?*)
        [[ $known == *" create-flag= "* ]] || die "unknown flag $argument; see $SCRIPT --help"
        CREATE_FLAGS+=("${argument#*=}")
        ;;
      --*=*)
        [[ $known == *" $name= "* ]] || die "unknown flag --$name=; see $SCRIPT --help"
        [[ -n ${argument#*=} ]] || die "--$name= has no value"
        FLAGS[$name]=${argument#*=}
        ;;
      --*)
        [[ $known != *" $name= "* ]] || die "--$name needs a value: --$name=VALUE"
        [[ $known == *" $name "* ]] || die "unknown flag $argument; see $SCRIPT --help"
        FLAGS[$name]=1
        ;;
      *) die "unexpected argument '$argument'; flags are --name=value, the job follows --" ;;
    esac
  done
}

# number_flag NAME DEFAULT: print a flag that must be a whole number.
number_flag() {
  local value=${FLAGS[$1]:-$2}
  [[ $value =~ ^[0-9]{1,7}$ ]] || die "--$1=$value must be a whole number"
  printf '%s' "$value"
}

is_dry() { [[ -n ${FLAGS[dry-run]-} ]]; }

# Read which VM is meant from the flags, or from the environment where a flag is left out.
read_target() {
  NAME=${FLAGS[name]:-${TPU_VM_NAME-}}
  ZONE=${FLAGS[zone]:-${TPU_VM_ZONE-}}
  local project=${FLAGS[project]:-${TPU_VM_PROJECT-}}
  [[ -n $NAME ]] || die "which VM? give --name=NAME, or set TPU_VM_NAME"
  [[ -n $ZONE ]] || die "which zone? give --zone=ZONE (such as us-east5-a), or set TPU_VM_ZONE"
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    die "--name=$NAME must begin with a letter and hold only a-z, 0-9 and -, at most 63 of them"
  [[ $ZONE =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
    die "--zone=$ZONE is not a zone; zones look like us-east5-a: gcloud compute tpus locations list"
  [[ -z $project || $project =~ ^([a-z0-9.-]+:)?[a-z][a-z0-9-]+$ ]] ||
    die "--project=$project must be a project's ID, not its name: gcloud projects list"
  PLACE=("--zone=$ZONE")
  TARGET=("--name=$NAME" "--zone=$ZONE")
  if [[ -n $project ]]; then
    PLACE+=("--project=$project")
    TARGET+=("--project=$project")
  fi
  is_dry || command -v gcloud >/dev/null ||
    die "gcloud isn't on PATH; install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install), then: gcloud init"
  # Prompts would wait for an answer in a run that nobody watches.
  export CLOUDSDK_CORE_DISABLE_PROMPTS=1
}

delete_command() { quote launch/tpu_vm.sh delete "${TARGET[@]}"; }

# Call gcloud and keep its stderr in a file. In a dry run print the command instead.
call() {
  : >"$SCRATCH/stderr"
  if is_dry; then
    printf '%s\n' "$(quote gcloud "$@")" >&3
  elif ((LIMIT)) && command -v timeout >/dev/null; then
    call_within_limit "$@"
  else
    gcloud "$@" 2>"$SCRATCH/stderr"
  fi
}

# Call gcloud for at most LIMIT seconds, in a subshell: it has traps of its own.
call_within_limit() (
  local code=0 called=""
  # timeout makes a process group of its own, to end what gcloud started too; Ctrl-C doesn't reach it.
  trap '[[ -z $called ]] || kill "$called" 2>/dev/null; exit 130' INT TERM HUP
  timeout -k 10 "$LIMIT" gcloud "$@" 2>"$SCRATCH/stderr" &
  called=$!
  wait "$called" 2>/dev/null || code=$?
  # 124 is the code of timeout itself, 137 that of its second signal.
  ((code != 124 && code != 137)) || echo "ERROR: timed out: no answer in $LIMIT s" >>"$SCRATCH/stderr"
  exit "$code"
)

# Whether a command that ended with this code may succeed another time.
passes() { (($1 == TRANSIENT || $1 == NO_CAPACITY)); }

# Call gcloud. If it fails, end with one line that says what is wrong.
must() { call "$@" || explain_and_exit; }

explain_and_exit() {
  local code=0
  explain || code=$?
  exit "$code"
}

# Whether gcloud itself had no connection. It may then ask to sign in again. If only the ssh that it
# starts has no connection, gcloud says how ssh exited.
is_offline() {
  ! grep -q -e 'exited with return code' -e 'failed with exit status' -e 'Could not SSH' "$SCRATCH/stderr" &&
    grep -q -E 'ConnectionPool\(|Max retries exceeded|NameResolution|[Ff]ailed to resolve|name resolution|TransportError|Connection (reset|refused|aborted)|Network is unreachable|timed out' "$SCRATCH/stderr"
}

# Whether gcloud did not find the zone.
is_unknown_zone() {
  grep -q -E "[Ll]ocation '?[a-z0-9-]+'? (is|was) not found|locations/[a-z0-9-]+'? ((is|was) not found|\(or it may not exist)" "$SCRATCH/stderr"
}

# Say in one line what gcloud's stderr means and what to do. Return the exit code for it.
explain() {
  local text line project=${PLACE[1]-}
  text=$(<"$SCRATCH/stderr")
  # launch/job.sh and launch/bootstrap.sh write such a line themselves, on a worker.
  if line=$(grep -m 1 '^error: ' "$SCRATCH/stderr"); then
    printf '%s\n' "$line" >&2
    return "$BAD_INPUT"
  elif line=$(grep -m 1 '^unavailable: ' "$SCRATCH/stderr"); then
    printf 'error: %s\n' "${line#unavailable: }" >&2
    return "$TRANSIENT"
  fi
  line=$(grep -m 1 -o '"message": *".*' "$SCRATCH/stderr" || grep -m 1 '^ERROR:' "$SCRATCH/stderr" ||
    grep -v '^ *$' "$SCRATCH/stderr" | tail -n 1) || line="no message"
  local code=$BAD_INPUT remedy
  if is_offline; then text=OFFLINE; elif is_unknown_zone; then text=UNKNOWN_ZONE; fi
  case $text in
    OFFLINE)
      code=$TRANSIENT
      remedy="the network may be down: when it is back, run it again" ;;
    UNKNOWN_ZONE)
      remedy="zones: gcloud compute tpus locations list ${project}" ;;
    *"launch/job.sh: No such file"*)
      line="$NAME is not set up"
      remedy="set it up: $(quote launch/tpu_vm.sh setup "${TARGET[@]}")" ;;
    *"active account"* | *"gcloud auth login"* | *"eauthentication"*)
      remedy="sign in: gcloud auth login" ;;
    *"attribute [project]"*)
      line="it knows no project"
      remedy="name the project: --project=PROJECT, or gcloud config set project PROJECT" ;;
    *SERVICE_DISABLED* | *"has not been used in project"* | *"API [tpu.googleapis.com] not enabled"*)
      remedy="enable the API: gcloud services enable tpu.googleapis.com ${project}" ;;
    *"SSH Key is not present"*)
      remedy="gcloud copies to several workers only with an agent: eval \"\$(ssh-agent)\" && ssh-add ~/.ssh/google_compute_engine" ;;
    *ALREADY_EXISTS* | *"already exists"*)
      remedy="use what is there, or delete it: $(delete_command)" ;;
    *[Qq]uota*"per minute"* | *[Qq]uota*PerMinute* | *[Qq]uota*"per 100 seconds"* | *rateLimitExceeded*)
      code=$TRANSIENT
      remedy="asked too often; run it again in a minute" ;;
    *[Qq]uota*)
      remedy="ask for more Cloud TPU quota (console, IAM & Admin, Quotas), or take a smaller --accelerator-type" ;;
    *"ccelerator type"* | *acceleratorType* | *AcceleratorType*)
      remedy="types of this zone: gcloud compute tpus tpu-vm accelerator-types list ${PLACE[*]}" ;;
    *"untime version"* | *runtimeVersion* | *RuntimeVersion*)
      remedy="versions of this zone: gcloud compute tpus tpu-vm versions list ${PLACE[*]}" ;;
    *"o more capacity"* | *"nsufficient"*"capacity"* | *"not enough resources"* | *tockout* | *RESOURCE_EXHAUSTED*)
      code=$NO_CAPACITY
      remedy="wait in the queue (--queued), or try another zone" ;;
    *PERMISSION_DENIED* | *"does not have permission"* | *"ermission denied on"* | *" 403"*)
      remedy="ask the project's owner for roles/tpu.admin and, to open ssh, roles/iam.serviceAccountUser and roles/compute.viewer" ;;
    *"terminal state"* | *"cannot be currently connected to"*)
      remedy="it is gone or stopped; delete it and create it anew: $(delete_command)" ;;
    *NOT_FOUND* | *"was not found"*)
      remedy="is $NAME in $ZONE? $(quote launch/tpu_vm.sh status "${TARGET[@]}")" ;;
    *"failed with exit status"* | *"exited with return code"* | *"Could not SSH"* | *onnection*)
      code=$TRANSIENT
      remedy="a worker can't be reached, or its command failed: a new VM needs a minute; one that stays away has died, delete it and create it anew: $(delete_command)" ;;
    *)
      code=$TRANSIENT
      remedy="run it again, or see the troubleshooting table of launch/README.md" ;;
  esac
  printf 'error: gcloud: %s; %s\n' "$line" "$remedy" >&2
  return "$code"
}

# state_of GROUP FORMAT: print the state of the resource with our name; nothing if there is none.
state_of() {
  call compute tpus "$1" describe "$NAME" "${PLACE[@]}" "--format=$2" && return
  if is_unknown_zone || ! grep -q -e NOT_FOUND -e 'was not found' -e ' 404' "$SCRATCH/stderr"; then
    explain_and_exit
  fi
}

queued_state() { state_of queued-resources 'value(state.state)'; }
vm_state() { state_of tpu-vm 'value(state)'; }

# Print how many workers the VM has.
worker_count() {
  local count
  count=$(state_of tpu-vm 'value(networkEndpoints.len())') || exit
  printf '%s' "${count:-0}"
}

# on_workers WHICH COMMAND: run a shell command on one worker, by its number, or on all.
on_workers() {
  local which=$1
  shift
  call "${SSH[@]}" ssh "$NAME" "${PLACE[@]}" "${SSH_FLAGS[@]}" "${SSH_OPTIONS[@]/#/--ssh-flag=}" \
    "--worker=$which" "--command=$1"
}

# copy ARGUMENT...: copy to or from workers. If that fails, end with one line that says why.
copy() { must "${SSH[@]}" scp "$@" "${PLACE[@]}" "${SSH_FLAGS[@]}" "${SSH_OPTIONS[@]/#/--scp-flag=}"; }

# A host has four chips of two cores each, and its type is named by cores; or it has eight chips (v5e
# and v6e), and its type is named by chips.
has_several_hosts() { [[ $1 =~ -([0-9]{1,5})$ ]] && ((10#${BASH_REMATCH[1]} > 8)); }

# Print which of our jobs JOB runs; nothing if none.
job_name() {
  local argument before="" program=""
  for argument in "${JOB[@]}"; do
    # The program comes after env and its variables: the console command of a job, or python.
    if [[ -z $program && $argument != env && $argument != *=* ]]; then
      program=${argument##*/}
      if [[ $program == recallm-* ]]; then
        printf '%s' "${program#recallm-}"
        return
      fi
    fi
    # python takes -m and the module as one word, too.
    [[ $before != -m ]] || argument=-m$argument
    if [[ $argument == -mrecallm_jax.* ]]; then
      printf '%s' "${argument#-mrecallm_jax.}"
      return
    fi
    before=$argument
  done
}

# Print how many chips a type has: v4 and v5p are named by their cores, two a chip.
chips_of() {
  local size=${1##*-}
  [[ $size =~ ^[0-9]{1,5}$ ]] || size=0
  case $1 in
    v4-* | v5p-*) printf '%s' $((10#$size / 2)) ;;
    *) printf '%s' $((10#$size)) ;;
  esac
}

# check_config_here TYPE: refuse a JOB whose config its VM would refuse. This takes the checkout's own
# Python, and is left out where there is none, or where it can't run the check.
check_config_here() {
  local name code=0 root=${LAUNCH%/*} from
  name=$(job_name)
  from=$root
  [[ " train evaluate probe prepare generate plan " == *" $name "* && -x $root/.venv/bin/python ]] || return 0
  [[ -z ${RECALLM_CHECKED-} ]] || return 0
  if [[ -n ${FLAGS[committed]-} ]]; then
    # The last commit is what goes to the VM.
    from=$SCRATCH/head
    mkdir -p "$from"
    git -C "$root" archive HEAD | tar -x -C "$from"
  fi
  (cd "$from" && PYTHONPATH=. JAX_PLATFORMS=cpu "$root/.venv/bin/python" launch/check_config.py "$(chips_of "$1")" "$name" "${JOB[@]}") || code=$?
  ((code != BAD_INPUT)) || exit "$BAD_INPUT"
  ((code == 0)) || say "the config is not checked here: $root/.venv does not work"
}

# check_for_several_hosts REMEDY: refuse a JOB that can't run on all hosts of a slice.
check_for_several_hosts() {
  local name argument alone=""
  name=$(job_name)
  case $name in
    "" | train | evaluate | probe) ;;
    *) alone="recallm_jax.$name" ;;
  esac
  for argument in "${JOB[@]}"; do
    case $argument in
      --shard | --shard=*)
        [[ -z $name ]] ||
          die "recallm_jax.$name ${argument%%=*} would be the same share on every host of $NAME; leave it out: the hosts of a slice share the prompts by themselves"
        ;;
      --rescore | --merge) [[ -z $name ]] || alone="recallm_jax.$name $argument" ;;
    esac
  done
  [[ -z $alone ]] || die "$alone runs as one process, and $NAME has several hosts; $1"
}

# Only gcloud's alpha commands connect through Identity-Aware Proxy.
read_connection() {
  SSH=(compute tpus tpu-vm)
  SSH_FLAGS=()
  if [[ -n ${FLAGS[iap]-} ]]; then
    SSH=(alpha "${SSH[@]}")
    SSH_FLAGS=(--tunnel-through-iap)
  fi
  if [[ -n ${FLAGS[internal-ip]-} ]]; then
    [[ -z ${FLAGS[iap]-} ]] || die "--iap and --internal-ip exclude each other; give one of them"
    SSH_FLAGS=(--internal-ip)
  fi
}
