# shellcheck shell=bash
# What `make test` and `make bench` share: a place outside the checkout that user hpc can enter, with the wheel
# installed in it, and the mini Slurm beside it. Sourced; the place and the cluster go when the script ends.

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PLACE=
CLUSTER=

say() { printf '\n== %s\n' "$*"; }

leave() {
    local status=$?
    trap - EXIT
    [[ -z $PLACE ]] || clear_place "$PLACE" || status=1
    exit "$status"
}

# clear_place PLACE: end what still runs of it, a cluster or what a test that was killed left, and remove it.
clear_place() {
    local status=0 round left
    if [[ -e $1/slurm/settings ]]; then
        timeout --kill-after=10 120 "$REPOSITORY/docker/slurm-cluster/down" --root "$1/slurm" || status=1
    fi
    for round in 1 2 3 4 5; do
        # All that runs there has a variable that leads there, such as TMPDIR; this shell has none.
        mapfile -t left < <(grep -lzs "=$1/" /proc/[0-9]*/environ | cut -d/ -f3 || true)
        ((${#left[@]})) || break
        kill -KILL "${left[@]}" 2>/dev/null || true
        sleep 0.1
    done
    rm -rf --one-file-system "$1" || status=1
    return "$status"
}

# ours PID: what names a process of this machine and this container for good.
ours() { printf '%s %s %s %s' "$(</proc/sys/kernel/random/boot_id)" "$(readlink /proc/self/ns/pid)" "$1" "$(awk '{ sub(/.*\) /, ""); print $20 }' "/proc/$1/stat" 2>/dev/null)"; }

make_place() {
    local base script old owner
    # Short, because unix sockets live below it; and programs must be let run there.
    for base in /var/tmp /tmp /srv "$HOME"; do
        PLACE=$(mktemp -d "$base/hpcflow.XXXXXX" 2>/dev/null) || continue
        script=$PLACE/script
        printf '#!/bin/sh\n' >"$script"
        chmod 0755 "$PLACE" "$script"
        # The trap comes first: a folder that is there is removed.
        trap leave EXIT
        trap 'exit 130' INT TERM
        if "$script" 2>/dev/null; then break; fi
        rm -rf "$PLACE"
        PLACE=
    done
    [[ $PLACE ]] || { echo "No folder here lets programs run: tried /var/tmp, /tmp, /srv and $HOME." >&2; exit 1; }
    rm "$script"
    ours $$ >"$PLACE/owner"
    # What a run that was killed has left.
    for old in "$base"/hpcflow.??????; do
        [[ -O $old && -r $old/owner && $old != "$PLACE" ]] || continue
        owner=$(<"$old/owner")
        read -r _ _ pid _ <<<"$owner"
        [[ $owner == "$(ours "$pid" | cut -d' ' -f1-3) "* && $owner != "$(ours "$pid")" ]] || continue
        echo "Removing $old, which a run that was killed has left."
        clear_place "$old" || true
    done
}

# again COMMAND...: up to three times, because networks fail now and then.
again() {
    local round
    for round in 1 2; do
        ! "$@" || return 0
        echo "That failed (try $round of 3): $*" >&2
        sleep $((5 * round))
    done
    "$@"
}

# install_packages NAME...: Debian packages.
install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    local apt=(timeout --kill-after=10 900 apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    again apt_update_and_install "$@" >"$PLACE/apt.log" 2>&1 || { tail -n 20 "$PLACE/apt.log" >&2; return 1; }
}

apt_update_and_install() {
    "${apt[@]}" install -y --no-install-recommends "$@" || {
        "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"
    }
}

# Tests on a real Slurm need root once, to start its daemons; nothing else here does.
bring_up_cluster() {
    if ((EUID != 0)); then
        echo "Without root there is no mini Slurm: tests on a cluster are left out. Run this as root, or in a container."
        echo "Debian and Ubuntu packages that it needs: $(tr '\n' ' ' <"$REPOSITORY/docker/slurm-cluster/packages")"
        return 0
    fi
    say "Mini Slurm"
    CLUSTER=$PLACE/slurm
    # The second one has other ports, and whatever packages the first one lacked.
    timeout --foreground --kill-after=10 1800 "$REPOSITORY/docker/slurm-cluster/up" --root "$CLUSTER" && return
    echo "The mini Slurm did not come up; once more." >&2
    timeout --kill-after=10 120 "$REPOSITORY/docker/slurm-cluster/down" --root "$CLUSTER" || rm -rf "$CLUSTER"
    timeout --foreground --kill-after=10 1800 "$REPOSITORY/docker/slurm-cluster/up" --root "$CLUSTER"
}

# Tests of the page need a Chromium, and take the distribution's.
bring_browser() {
    if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then return 0; fi
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "There is no Chromium here: tests of the page in a browser are left out. As root: apt-get install chromium"
        return 0
    fi
    say "Chromium"
    install_packages chromium
}

# Tests of leptons compile a C library, those of file transfer call rsync.
bring_compiler() {
    if command -v gcc >/dev/null && command -v rsync >/dev/null && [[ -e /usr/include/stdint.h ]]; then return 0; fi
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "There is no gcc or no rsync here, and tests need both. As root: apt-get install gcc libc6-dev rsync"
        return 0
    fi
    say "gcc and rsync"
    install_packages gcc libc6-dev rsync
}

# make_wheel_venv EXTRAS: build a wheel of this checkout and install it into $PLACE/venv.
make_wheel_venv() {
    local python
    # The first python3 on PATH may live in root's home, where hpc can't follow.
    python=$("$REPOSITORY/tools/find-python" /usr/bin/python3)
    say "Wheel, installed with $python"
    "$python" -m venv "$PLACE/venv"
    again "$PLACE/venv/bin/python" -m pip --quiet --disable-pip-version-check wheel --no-deps -w "$PLACE/dist" "$REPOSITORY"
    again "$PLACE/venv/bin/python" -m pip --quiet --disable-pip-version-check install "$(echo "$PLACE"/dist/*.whl)[$1]"
    ls "$PLACE/dist"
}

# copy_tree NAME...: parts of the checkout, to run from where the source itself can't be imported.
copy_tree() {
    mkdir -p "$PLACE/tree" "$PLACE/tmp"
    (cd "$REPOSITORY" && tar -c --exclude=__pycache__ "$@") | tar -x -C "$PLACE/tree" --no-same-owner
    chmod -R go+rX "$PLACE/tree"
    if ((EUID == 0)) && [[ $CLUSTER ]]; then chown -R hpc "$PLACE/tree" "$PLACE/tmp"; fi
}

# run_clean COMMAND...: run in $PLACE/tree with an environment of our own, not the caller's.
run_clean() {
    local -a environment=(PATH="$PLACE/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin" LANG=C.UTF-8
        TMPDIR="$PLACE/tmp" HOME="$HOME" USER="$(id -un)" PYTHONDONTWRITEBYTECODE=1)
    [[ -z ${TERM:-} ]] || environment+=(TERM="$TERM")
    [[ -z ${CI:-} ]] || environment+=(CI="$CI")
    [[ -z $CLUSTER ]] || environment+=(SLURM_CONF="$CLUSTER/slurm.conf" MINI_SLURM_ROOT="$CLUSTER")
    (cd "$PLACE/tree" && exec env -i "${environment[@]}" "$@" </dev/null)
}

# run_as_user COMMAND...: the same as user hpc where the cluster runs, else as whoever we are.
run_as_user() {
    if [[ $CLUSTER ]]; then
        run_clean setpriv --reuid=hpc --regid=hpc --init-groups \
            env HOME="$(getent passwd hpc | cut -d: -f6)" USER=hpc "$@"
    else
        run_clean "$@"
    fi
}
