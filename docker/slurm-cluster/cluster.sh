# shellcheck shell=bash
# What both ways up share: render the configuration, start daemons, know whether they live, stop them.
# Sourced by up, down and entry, which set ROOT (the cluster's folder) and the values of the @NAMES@ in conf/.
# shellcheck disable=SC2154

CONF_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/conf
DAEMON_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Everything that dies with the power may be lost: the folder does not outlive its cluster.
DATABASE_OPTIONS=(--no-defaults --user=mysql --datadir="$ROOT/db" --innodb-flush-log-at-trx-commit=0
    --innodb-flush-method=nosync --skip-innodb-doublewrite --innodb-buffer-pool-size=128M
    --innodb-log-file-size=64M --skip-log-bin --skip-name-resolve --performance-schema=OFF)

umask 022

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# render TEMPLATE DESTINATION: every @NAME@ of the template becomes the value of the shell variable NAME.
render() {
    local text name
    text=$(grep -v '^#' "$CONF_DIR/$1")
    while [[ $text =~ @([A-Z_]+)@ ]]; do
        name=${BASH_REMATCH[1]}
        [[ -v $name ]] || die "conf/$1 asks for @$name@, which is not set."
        text=${text//"@$name@"/"${!name}"}
    done
    (umask 077 && printf '%s\n' "$text" >"$2")
}

# start_time PID: the process's start in clock ticks since boot; with the pid it names one process for good.
# comm may hold blanks and brackets, so count the fields after the last bracket.
start_time() {
    local line fields
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
    read -ra fields <<<"${line##*) }"
    [[ ${fields[0]} != Z ]] && printf '%s' "${fields[19]}"
}

# runs NAME: whether the process that start() recorded as NAME is still there.
runs() {
    local pid recorded
    { read -r pid <"$ROOT/run/$1.pid" && read -r recorded <"$ROOT/run/$1.start"; } 2>/dev/null || return 1
    [[ $(start_time "$pid") == "$recorded" ]]
}

# alive NAME COMM: whether it runs and has become the daemon. Compares comm, not exe: slurmd is an alternatives
# link, and root in an unprivileged container may not read other users' exe.
alive() { runs "$1" && [[ $(cat "/proc/$(<"$ROOT/run/$1.pid")/comm" 2>/dev/null) == "$2" ]]; }

# start NAME COMM COMMAND...: run a foreground daemon in a session of its own, unless it lives. The pid file is
# ours: a daemon that cannot bind its port removes its own, and so hides the one that runs.
start() {
    local name=$1 comm=$2 pid
    shift 2
    alive "$name" "$comm" && return
    (
        [[ ! -v LOCK ]] || exec {LOCK}<&-
        exec setsid env -i PATH="$DAEMON_PATH" LC_ALL=C.UTF-8 SLURM_CONF="$ROOT/slurm.conf" "$@"
    ) </dev/null >>"$ROOT/log/$name.out" 2>&1 &
    pid=$!
    printf '%s\n' "$(start_time "$pid")" >"$ROOT/run/$name.start"
    printf '%s\n' "$pid" >"$ROOT/run/$name.pid"
    wait_until 60 "$name" alive "$name" "$comm"
}

# wait_until SECONDS NAME COMMAND...: poll. When time is up or the daemon NAME has died, end with the last lines
# of its logs.
wait_until() {
    local seconds=$1 name=$2 end=$((SECONDS + $1))
    shift 2
    until "$@"; do
        if ((SECONDS > end)) || ! runs "$name"; then
            tail -n 8 "$ROOT/log/$name".* >&2 || true
            [[ $name != slurmctld ]] || SLURM_CONF=$ROOT/slurm.conf timeout 5 sinfo -N >&2 || true
            runs "$name" || die "$name has died. Its logs are in $ROOT/log."
            die "$name is not ready after $seconds s. Its logs are in $ROOT/log."
        fi
        sleep 0.1
    done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# write_configuration [KEY=VALUE]...: the folder and every file of the configuration, slurm.conf last: where it is,
# all are. A pair takes the place of the template's line in slurm.conf; without a value it only drops that line.
write_configuration() {
    [[ ! -e $ROOT/slurm.conf ]] || return 0
    make_folders
    render gres.conf "$ROOT/gres.conf"
    render cgroup.conf "$ROOT/cgroup.conf"
    render slurmdbd.conf "$ROOT/slurmdbd.conf"
    chown slurm "$ROOT/slurmdbd.conf"
    render sshd_config "$ROOT/ssh/sshd_config"
    render ssh_config "$ROOT/ssh/config"
    render slurm.conf "$ROOT/slurm.conf.new"
    local pair
    for pair in "$@"; do
        sed -i "/^${pair%%=*}=/Id" "$ROOT/slurm.conf.new"
        [[ -z ${pair#*=} ]] || printf '%s\n' "$pair" >>"$ROOT/slurm.conf.new"
    done
    printf '%s\n' "# Source this to talk to the mini Slurm." \
        "export SLURM_CONF=$ROOT/slurm.conf" "export MINI_SLURM_ROOT=$ROOT" >"$ROOT/env"
    chmod 0644 "$ROOT"/{gres,cgroup}.conf "$ROOT/slurm.conf.new" "$ROOT/env"
    mv "$ROOT/slurm.conf.new" "$ROOT/slurm.conf"
}

make_folders() {
    mkdir -p "$ROOT"/{run,log,dev,spool,munge,state,db,ssh/authorized_keys}
    chmod 0755 "$ROOT" "$ROOT"/{run,log,dev,spool,munge,ssh,ssh/authorized_keys}
    chmod 0700 "$ROOT"/{state,db}
    chown slurm "$ROOT/state" "$ROOT/log" "$ROOT/run"
    chown mysql "$ROOT/db"
    chown munge "$ROOT/munge"
    local gpu
    for gpu in 0 1 2 3; do
        [[ -c $ROOT/dev/gpu$gpu ]] || mknod -m 0666 "$ROOT/dev/gpu$gpu" c 1 3
    done
}

make_user() {
    id hpc >/dev/null 2>&1 || useradd --create-home --shell /bin/bash hpc
    # With '!' for a password sshd calls the account locked and refuses its key.
    [[ $(getent shadow hpc) != 'hpc:!'* ]] || usermod --password '*' hpc
}

# The key is the cluster's only secret between its hosts: containers share the file MUNGE_KEY.
MUNGE_KEY=${MUNGE_KEY:-$ROOT/munge/key}

make_munge_key() {
    [[ ! -e $MUNGE_KEY ]] || return 0
    (umask 077 && head -c 128 /dev/urandom >"$MUNGE_KEY.new")
    chown munge "$MUNGE_KEY.new"
    mv "$MUNGE_KEY.new" "$MUNGE_KEY"
}

start_munge() {
    start munged munged setpriv --reuid=munge --regid=munge --init-groups munged --foreground \
        --key-file="$MUNGE_KEY" --socket="$ROOT/munge/socket" --pid-file="$ROOT/munge/pid" \
        --log-file="$ROOT/munge/munged.log" --seed-file="$ROOT/munge/seed"
    wait_until 30 munged test -S "$ROOT/munge/socket"
}

start_database() {
    alive mariadbd mariadbd && return
    if [[ ! -d $ROOT/db/mysql ]]; then
        # --force: a host need not resolve its own name.
        mariadb-install-db "${DATABASE_OPTIONS[@]}" --skip-test-db --force >"$ROOT/log/mariadb-install-db.out" 2>&1 ||
            die "mariadb-install-db failed, see $ROOT/log/mariadb-install-db.out."
    fi
    # Only 127.0.0.1 has a password; the socket lets in the operating system's own root and mysql.
    (umask 077 && printf '%s\n' "CREATE DATABASE IF NOT EXISTS slurm_acct_db;" \
        "CREATE OR REPLACE USER slurm@'127.0.0.1' IDENTIFIED BY '$DB_PASSWORD';" \
        "GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1';" >"$ROOT/db/init.sql")
    chown mysql "$ROOT/db/init.sql"
    start mariadbd mariadbd mariadbd "${DATABASE_OPTIONS[@]}" --bind-address=127.0.0.1 --port="$DB_PORT" \
        --socket="$ROOT/db/socket" --pid-file="$ROOT/db/pid" --init-file="$ROOT/db/init.sql" \
        --innodb-lock-wait-timeout=900
    wait_until 120 mariadbd listens "$DB_PORT"
}

# slurmctld refuses to start until accounting knows its cluster, so the accounts come first.
start_accounting() {
    # `up --no-accounting` turns it off there.
    grep -q '^AccountingStorageType=accounting_storage/slurmdbd$' "$ROOT/slurm.conf" || return 0
    start_database
    start slurmdbd slurmdbd slurmdbd -D
    wait_until 120 slurmdbd listens "$DBD_PORT"
    if [[ ! -e $ROOT/run/accounts-loaded ]]; then
        # One client for all commands: each client and each commit costs time.
        SLURM_CONF=$ROOT/slurm.conf sacctmgr -i <"$CONF_DIR/accounts.sacctmgr" >"$ROOT/log/sacctmgr.out" 2>&1 || true
        [[ $(SLURM_CONF=$ROOT/slurm.conf sacctmgr -nP show assoc user=root account=proj format=user) == root ]] ||
            die "The accounts were not loaded, see $ROOT/log/sacctmgr.out."
        touch "$ROOT/run/accounts-loaded"
    fi
}

start_controller() { start slurmctld slurmctld slurmctld -D; }

start_node() {
    mkdir -p "$ROOT/spool/$1"
    start "$1" slurmd slurmd -D -N "$1"
}

start_sshd() {
    alive sshd sshd && return
    local key
    for key in host_key id_ed25519; do
        [[ -e $ROOT/ssh/$key ]] || ssh-keygen -q -t ed25519 -N '' -C mini -f "$ROOT/ssh/$key"
    done
    if [[ ! -e $ROOT/ssh/authorized_keys/hpc ]]; then
        cp "$ROOT/ssh/id_ed25519.pub" "$ROOT/ssh/authorized_keys/hpc"
        chown hpc "$ROOT/ssh/authorized_keys/hpc"
    fi
    printf '[127.0.0.1]:%s %s\n' "$SSH_PORT" "$(<"$ROOT/ssh/host_key.pub")" >"$ROOT/ssh/known_hosts"
    mkdir -p /run/sshd # compiled into sshd, and empty
    start sshd sshd /usr/sbin/sshd -D -e -f "$ROOT/ssh/sshd_config"
}

# nodes_up: whether every node takes jobs. Takes the exact state: `sinfo -t idle` also lists invalid nodes.
nodes_up() {
    local states
    states=$(SLURM_CONF=$ROOT/slurm.conf sinfo -h -N -o %T 2>/dev/null) || return 1
    [[ -n $states ]] && ! grep -qvxE 'idle|mixed|allocated|completing' <<<"$states"
}

# resume_nodes: put nodes back in service that a failed launch, or a test, has drained.
resume_nodes() {
    local node state
    while read -r node state; do
        [[ $state != *drain* && $state != down* ]] ||
            SLURM_CONF=$ROOT/slurm.conf scontrol update "NodeName=$node" State=RESUME || true
    done < <(SLURM_CONF=$ROOT/slurm.conf sinfo -h -N -o '%N %T' | sort -u)
}

controller_answers() { SLURM_CONF=$ROOT/slurm.conf sinfo -h >/dev/null 2>&1; }

# stop SIGNAL NAME COMM: end one daemon by its pid file, and wait until it is gone.
stop() {
    local end=$((SECONDS + 30)) pid
    alive "$2" "$3" || return 0
    pid=$(<"$ROOT/run/$2.pid")
    kill "-$1" "$pid" 2>/dev/null || return 0
    while runs "$2"; do
        ((SECONDS <= end)) || kill -KILL "$pid" 2>/dev/null || return 0
        sleep 0.05
    done
}
