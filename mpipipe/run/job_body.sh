# -- from here on all jobs are alike ---------------------------------------------------------------
set -u
export OMP_NUM_THREADS=1
say() { printf '%s job %s: %s\n' "$(date '+%F %T')" "${SLURM_JOB_ID:-${PBS_JOBID:-$$}}" "$*"; }

started=${SLURM_RESTART_COUNT:-0}
drained=0
launcher=

# Shortly before the time limit, or when somebody ends the job: let running tasks finish and commit.
drain() {
    drained=1
    say "drains"
    if [[ -n $launcher ]]; then kill -USR1 "$launcher" 2>/dev/null; fi
}
trap drain USR1 TERM

all_hosts() {
    case $SCHEDULER in
    slurm) scontrol show hostnames "$SLURM_JOB_NODELIST" ;;
    pbs) sort -u "$PBS_NODEFILE" ;;
    none) echo localhost ;;
    esac
}

# Whether a node of the allocation still works.
lives() {
    case $SCHEDULER in
    slurm) timeout 30 srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" --mem=0 true ;;
    pbs) timeout 30 pbsdsh -h "$1" -- true ;;
    none) true ;;
    esac &>/dev/null
}

choose_hosts() {
    hosts=()
    local host
    while read -r host; do
        if ((try == 1)) || lives "$host"; then hosts+=("$host"); else say "$host is lost"; fi
    done < <(all_hosts)
    hosts=("${hosts[@]:0:NODES}")
}

# An environment on a shared disk is read by all ranks at once; a copy on each node is not.
unpack_environment() {
    if [[ -z $ARCHIVE ]]; then return; fi
    local place=$LOCAL/mpipipe-env-${SLURM_JOB_ID:-${PBS_JOBID:-$$}}
    local unpack=(bash -c 'mkdir -p "$1" && tar -xf "$0" -C "$1"' "$ARCHIVE" "$place")
    case $SCHEDULER in
    slurm) srun --overlap --ntasks-per-node=1 --ntasks="${#hosts[@]}" --mem=0 "${unpack[@]}" ;;
    pbs) pbsdsh -u -- "${unpack[@]}" ;;
    none) "${unpack[@]}" ;;
    esac || { say "the environment could not be unpacked" && exit 1; }
    export PATH=$place/bin:$PATH
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
    "${command[@]}" ${OPTIONS[@]+"${OPTIONS[@]}"} python -m mpipipe run "$@" &
    launcher=$!
    # A trapped signal ends `wait`, not the launcher.
    while wait "$launcher"; code=$?; kill -0 "$launcher" 2>/dev/null; do :; done
    launcher=
}

again() {
    if ((started + 1 >= STARTS)); then
        say "was started $STARTS times; go on with: mpipipe submit --resume $RUN"
        exit 75
    fi
    case $SCHEDULER in
    slurm) say "has itself started again" && scontrol requeue "$SLURM_JOB_ID" && sleep 60 ;;
    pbs) say "has itself started again" && qrerun "$PBS_JOBID" && sleep 60 ;;
    esac
    exit 75
}

if ((STRIPES)) && command -v lfs >/dev/null && [[ ! -e $RUN ]]; then
    mkdir -p "$RUN" && lfs setstripe -c "$STRIPES" "$RUN"
fi
code=1
for ((try = 1; try <= TRIES; try++)); do
    choose_hosts
    if ((${#hosts[@]} == 0)); then break; fi
    if ((try == 1)); then unpack_environment; fi
    say "start $((started + 1)), try $try on ${hosts[*]}"
    if [[ -e $RUN/plan.columns ]]; then launch --resume "$RUN"; else launch "${FIRST[@]}"; fi
    say "the ranks have ended with $code"
    # What a launcher returns after a loss means nothing.
    if python -m mpipipe verify "$RUN"; then exit 0; fi
    if ((drained)); then again; fi
    if ((code == 1 || code == 2)) && [[ ! -e $RUN/plan.columns ]]; then exit "$code"; fi
done
say "gave up after $TRIES tries in this job"
again
