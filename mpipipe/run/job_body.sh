# -- from here on all jobs are alike ---------------------------------------------------------------
set -u
export OMP_NUM_THREADS=1
job=${SLURM_JOB_ID:-${PBS_JOBID:-$$}}
say() { printf '%s job %s: %s\n' "$(date '+%F %T')" "$job" "$*"; }

started=${MPIPIPE_STARTED:-${SLURM_RESTART_COUNT:-0}}
drained=0 ended=0
launcher= timer=
WATCHERS=3 # nodes that watch the first one
watchers=()
stamp=$(mktemp)
declare -A unpacked=()

# Running tasks finish and are committed. Shortly before the time limit (USR1) the job goes on in
# another start; when somebody ends it (TERM) it does not.
drain() {
    drained=1
    say "drains"
    if [[ -n $launcher ]]; then kill -USR1 "$launcher" 2>/dev/null; fi
}
trap drain USR1
trap '((drained)) || ended=1; drain' TERM

clean_up() {
    if [[ -n $timer ]]; then kill "$timer" 2>/dev/null; fi
    kill ${watchers[@]+"${watchers[@]}"} 2>/dev/null
    rm -f "$stamp"
    local host
    for host in ${unpacked[@]+"${!unpacked[@]}"}; do on_host "$host" rm -rf "$place" &>/dev/null; done
}
trap clean_up EXIT

# PBS gives no warning of its own.
if [[ $SCHEDULER == pbs ]]; then
    { sleep "$((LIMIT_S - LEAD_S))" && kill -USR1 $$; } &
    timer=$!
fi

# Run a command on a node of the allocation.
on_host() {
    local host=$1
    shift
    case $SCHEDULER in
    slurm) srun --overlap --nodes=1 --ntasks=1 --nodelist="$host" --mem=0 "$@" ;;
    pbs) pbs_tmrsh "$host" "$@" ;;
    none) "$@" ;;
    esac </dev/null # what it would read is not for it
}

all_hosts() {
    case $SCHEDULER in
    slurm) scontrol show hostnames "$SLURM_JOB_NODELIST" ;;
    pbs) sort -u "$PBS_NODEFILE" ;;
    none) echo localhost ;;
    esac
}

choose_hosts() {
    local known host
    mapfile -t known < <(all_hosts)
    living=()
    for host in "${known[@]}"; do
        # A probe that hangs tells as much as one that fails.
        if ((try == 1)) || timeout 30 bash -c "$(declare -f on_host); SCHEDULER=$SCHEDULER;
            on_host \"\$0\" true" "$host" &>/dev/null; then
            living+=("$host")
        else
            say "$host is lost"
        fi
    done
    hosts=("${living[@]:0:NODES}")
}

# A job that has lost the node of this script would stay as it is until its time limit: Slurm does
# not end what may go on without a node. Other nodes see that, and have the job started again.
watch_first_node() {
    if [[ $SCHEDULER != slurm ]]; then return; fi
    kill ${watchers[@]+"${watchers[@]}"} 2>/dev/null
    watchers=()
    local host
    for host in "${living[@]}"; do
        if [[ $host == "${SLURMD_NODENAME:-}" ]] || ((${#watchers[@]} == WATCHERS)); then continue; fi
        # shellcheck disable=SC2016 # for the shell there
        srun --overlap --nodes=1 --ntasks=1 --nodelist="$host" --mem=0 bash -c 'while sleep 30; do
                job=$(scontrol -o show job "$SLURM_JOB_ID") || continue
                if [[ $job != *" BatchHost="* ]]; then continue; fi
                nodes=${job##* NodeList=} first=${job##* BatchHost=}
                if ! scontrol show hostnames "${nodes%% *}" | grep -qxF "${first%% *}"; then
                    scontrol requeue "$SLURM_JOB_ID"
                fi
            done' </dev/null &>/dev/null &
        watchers+=($!)
    done
}

# An environment on a shared disk is read by all ranks at once; a copy on each node is not.
unpack_environment() {
    if [[ -z $ARCHIVE ]]; then return; fi
    place=$LOCAL/mpipipe-env-$job
    local host
    for host in "${hosts[@]}"; do
        if [[ -n ${unpacked[$host]:-} ]]; then continue; fi
        unpacked[$host]=1
        # shellcheck disable=SC2016 # its own $0 and $1
        on_host "$host" bash -c 'mkdir -p "$1" && tar -xf "$0" -C "$1"' "$ARCHIVE" "$place" ||
            { say "the environment could not be unpacked on $host" && exit 1; }
    done
    if [[ :$PATH: != *:$place/bin:* ]]; then export PATH=$place/bin:$PATH; fi
}

launch() {
    local ranks=$((${#hosts[@]} * PER_NODE)) places command
    places=$(printf "%s:$PER_NODE," "${hosts[@]}")
    case $MPI in
    openmpi5) # ob1: other transports do not survive a lost rank
        command=(mpirun --with-ft ulfm --mca async_mpi_finalize 1 --mca pml ob1
            --prtemca oob_tcp_keepalive_time 3 --prtemca oob_tcp_keepalive_intvl 1
            --prtemca oob_tcp_keepalive_probes 3 -n "$ranks") ;;
    openmpi) command=(mpirun -n "$ranks") ;;
    mpich) command=(mpiexec -n "$ranks") ;;
    srun) command=(srun --mpi=pmix --ntasks="$ranks" --nodes="${#hosts[@]}") ;;
    esac
    if [[ $SCHEDULER != none && $MPI != srun ]]; then command+=(--host "${places%,}"); fi
    if [[ $MPI == srun ]]; then command+=(--nodelist="$(IFS=, && echo "${hosts[*]}")"); fi
    touch "$stamp"
    "${command[@]}" ${OPTIONS[@]+"${OPTIONS[@]}"} python -m mpipipe run "$@" &
    launcher=$!
    if ((drained)); then kill -USR1 "$launcher" 2>/dev/null; fi
    # A trapped signal ends `wait`, not the launcher.
    while wait "$launcher"; code=$?; kill -0 "$launcher" 2>/dev/null; do :; done
    launcher=
}

# Leave for good; somebody may go on later.
leave() {
    say "$1; go on with: mpipipe submit --resume $RUN"
    exit 75
}

again() {
    if ((started + 1 >= STARTS)); then leave "was started $STARTS times"; fi
    case $SCHEDULER in
    slurm) say "has itself started again" && scontrol requeue "$SLURM_JOB_ID" && sleep 60 ;;
    pbs)
        say "has another one started" &&
            qsub -W "depend=afterany:$PBS_JOBID" -v "MPIPIPE_STARTED=$((started + 1))" "$SCRIPT"
        ;;
    esac
    exit 75
}

if ((STRIPES)) && command -v lfs >/dev/null && [[ ! -e $RUN ]]; then
    mkdir -p "$RUN" && lfs setstripe -c "$STRIPES" "$RUN"
fi
if ((started >= STARTS)); then leave "was started $started times"; fi
code=1
for ((try = 1; try <= TRIES; try++)); do
    choose_hosts
    if ((${#hosts[@]} == 0)); then break; fi
    watch_first_node
    unpack_environment
    if ((ended)); then leave "was ended"; fi
    if ((drained)); then again; fi
    say "start $((started + 1)), try $try on ${hosts[*]}"
    if [[ ! -e $PLAN ]] || ((RESUMES && started == 0 && try == 1)); then
        launch "${FIRST[@]}"
    else
        launch --resume "$RUN"
    fi
    say "the ranks have ended with $code"
    # What a launcher returns after a loss means nothing.
    if python -m mpipipe verify "$RUN"; then exit 0; fi
    if ((ended)); then leave "was ended"; fi
    if ((drained)); then again; fi
    if [[ $HALT -nt $stamp ]]; then leave "the run was stopped"; fi
    if ((code == 1 || code == 2)) && { [[ ! -e $PLAN ]] || ((RESUMES && try == 1)); }; then
        exit "$code"
    fi
done
say "gave up after $((try - 1)) tries in this job"
again
