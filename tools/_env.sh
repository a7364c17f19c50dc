# Shared by the commands in tools/: paths, environment, time limits. Sourced, never run.

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$REPO/.venv
PY=$VENV/bin/python

# Some runners start without a home; several libraries want one to keep their settings in.
if [[ -z ${HOME:-} || ! -d $HOME || ! -w $HOME ]]; then
    export HOME=$REPO/.cache/home
    mkdir -p "$HOME"
fi
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/mpipipe

# The launcher, the MPI compiler and Python have to come from one place.
export PATH=$VENV/bin:$PATH
export LC_ALL=C.UTF-8 MPLBACKEND=Agg PYTHONNOUSERSITE=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# One thread a rank: the ranks are the parallelism.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Tests and the demo may ask for more ranks than there are cores.
export PRTE_MCA_rmaps_default_mapping_policy=${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}
if [[ $(id -u) == 0 ]]; then
    # Open MPI refuses root unless told twice; fresh machines and containers have no other user.
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# say WORDS: one line of progress with the seconds since the command began.
say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }

# die WORDS: say why and leave.
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# usage: print the comment at the head of the command.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# end_session SID: kill whatever is left of a session that we started. mpirun gives every rank a
# process group of its own, so killing mpirun's group would leave hung ranks behind.
end_session() {
    local sid=$1 dir stat
    for dir in /proc/[0-9]*; do
        read -r stat 2>/dev/null <"$dir/stat" || continue
        # shellcheck disable=SC2086 # the fields after "pid (name)": state parent group session
        set -- ${stat##*) }
        if [[ ${4:-} == "$sid" ]]; then kill -KILL "${dir#/proc/}" 2>/dev/null || true; fi
    done
}

# limited SECONDS COMMAND...: run in a session of its own, end it at the limit, leave nothing
# behind. Gives the exit code of the command, 124 or 137 when the limit was reached.
limited() {
    local seconds=$1 sid code=0
    shift
    # A background child leads no process group, so setsid does not fork: its pid is the session.
    # It may need a while to end what it has started in sessions of their own.
    setsid timeout -k 40 "$seconds" "$@" &
    sid=$!
    trap 'kill -TERM '"$sid"'; wait '"$sid"' || true; end_session '"$sid"'; exit 130' INT TERM
    wait "$sid" || code=$?
    trap - INT TERM
    end_session "$sid"
    return "$code"
}
