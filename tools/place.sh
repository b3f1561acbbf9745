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
    [[ -z $CLUSTER ]] || "$REPOSITORY/docker/slurm-cluster/down" --root "$CLUSTER" || status=1
    [[ -z $PLACE ]] || rm -rf "$PLACE"
    exit "$status"
}

make_place() {
    # Short, because unix sockets live below it.
    PLACE=$(mktemp -d /var/tmp/hpcflow.XXXXXX)
    chmod 0755 "$PLACE"
    trap leave EXIT
    trap 'exit 130' INT TERM
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
    "$REPOSITORY/docker/slurm-cluster/up" --root "$CLUSTER"
}

# Tests of the page need a Chromium, and take the distribution's.
bring_browser() {
    if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then return 0; fi
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "There is no Chromium here: tests of the page in a browser are left out. As root: apt-get install chromium"
        return 0
    fi
    say "Chromium"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium)
    "${install[@]}" >/dev/null || { apt-get -qq update && "${install[@]}" >/dev/null; }
}

# Tests of leptons compile a C library, those of file transfer call rsync.
bring_compiler() {
    if command -v gcc >/dev/null && command -v rsync >/dev/null && [[ -e /usr/include/stdint.h ]]; then return 0; fi
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "There is no gcc or no rsync here, and tests need both. As root: apt-get install gcc libc6-dev rsync"
        return 0
    fi
    say "gcc and rsync"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends gcc libc6-dev rsync)
    "${install[@]}" >/dev/null || { apt-get -qq update && "${install[@]}" >/dev/null; }
}

# make_wheel_venv EXTRAS: build a wheel of this checkout and install it into $PLACE/venv.
make_wheel_venv() {
    local python
    # The first python3 on PATH may live in root's home, where hpc can't follow.
    python=$("$REPOSITORY/tools/find-python" /usr/bin/python3)
    say "Wheel, installed with $python"
    "$python" -m venv "$PLACE/venv"
    "$PLACE/venv/bin/python" -m pip --quiet --disable-pip-version-check wheel --no-deps -w "$PLACE/dist" "$REPOSITORY"
    "$PLACE/venv/bin/python" -m pip --quiet --disable-pip-version-check install "$(echo "$PLACE"/dist/*.whl)[$1]"
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
