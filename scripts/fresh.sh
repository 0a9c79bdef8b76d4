#!/usr/bin/env bash
# Runs the README's two commands, as they stand there, on a bare Debian 12, and prints how long each took. debootstrap
# makes that system in a folder: Debian's smallest set of packages, an empty home, and a clone of what is committed here.
# Needs root, debootstrap and a network. What this machine needs to reach Debian, PyPI and npm goes along where it is set:
# certificates, apt's mirror, keys and network options, proxies, and the options of pip and npm with the files that they name.
#   scripts/fresh.sh [--only-first] [--keep] [FOLDER]
# --only-first  not the tests
# --keep        leaves the system in FOLDER, by default one in /var/tmp, for a look afterwards: chroot FOLDER
# --list        only prints the commands
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

# Every block of the README in `sh` that begins with one of our scripts, one a line.
mapfile -t commands < <(awk '
  /^```sh$/ { block = ""; inside = 1; next }
  /^```$/ { if (inside && block ~ /^scripts\//) print block; inside = 0 }
  inside { block = block (block ? "; " : "") $0 }' "$root/README.md")
if [ "${#commands[@]}" -ne 2 ]; then
  echo "fresh.sh: README.md has ${#commands[@]} blocks that run scripts/, not 2" >&2
  exit 1
fi

count=2 keep= folder=
while [ $# -gt 0 ]; do
  case $1 in
    --only-first) count=1 ;;
    --keep) keep=1 ;;
    --list) printf '%s\n' "${commands[@]}" && exit ;;
    -*) echo "usage: fresh.sh [--only-first] [--keep] [--list] [FOLDER]" >&2 && exit 2 ;;
    *) folder=$1 ;;
  esac
  shift
done
if [ "$(id -u)" -ne 0 ]; then echo "fresh.sh: only root can make a system" >&2 && exit 1; fi
if ! command -v debootstrap >/dev/null; then echo "fresh.sh: please install debootstrap" >&2 && exit 1; fi

# Mounts and processes live in namespaces of their own, and so end with this script, however it ends.
if [ -z "${SPARSEFIRE_FRESH:-}" ]; then
  if [ -n "$folder" ]; then
    mkdir -p "$folder"
    if [ -n "$(ls -A "$folder")" ]; then echo "fresh.sh: $folder is not empty" >&2 && exit 1; fi
  else
    folder=$(mktemp -d /var/tmp/sparsefire-fresh.XXXXXX)
  fi
  if [ -z "$keep" ]; then trap 'rm -rf --one-file-system "$folder"' EXIT; fi
  options=()
  if [ "$count" -eq 1 ]; then options=(--only-first); fi
  SPARSEFIRE_FRESH=1 unshare --mount --pid --fork --kill-child "$0" "${options[@]}" "$folder"
  exit
fi

# ---- The system ----

# apt_mirror CODENAME: where this machine's apt has that release from, "" for nowhere.
apt_mirror() { apt-get indextargets --format '$(REPO_URI)' "Codename: $1" 'Created-By: Packages' 2>/dev/null | sed -n 1p; }

mirror=$(apt_mirror bookworm)
security=$(apt_mirror bookworm-security)
debootstrap --variant=minbase --include=ca-certificates bookworm "$folder" ${mirror:+"$mirror"} >"$folder.log" ||
  { tail "$folder.log" >&2 && exit 1; }
rm "$folder.log"
if [ -n "$security" ]; then
  echo "deb $security bookworm-security main" >>"$folder/etc/apt/sources.list"
fi
# What of apt's settings has to do with the network.
apt-config dump | grep -E '^Acquire::((https?|ftp)::|Check-|Retries|ForceIPv)' >"$folder/etc/apt/apt.conf.d/90host" || true
cp -a /etc/apt/trusted.gpg.d/. "$folder/etc/apt/trusted.gpg.d/" 2>/dev/null || true
cp -L /etc/resolv.conf /etc/hosts "$folder/etc/"
mount -t proc proc "$folder/proc"
mount --rbind /sys "$folder/sys"
mount --rbind /dev "$folder/dev"
mount -t tmpfs shm "$folder/dev/shm"
cp -a /usr/local/share/ca-certificates/. "$folder/usr/local/share/ca-certificates/" 2>/dev/null || true
chroot "$folder" update-ca-certificates >/dev/null 2>&1

# ---- The settings of this machine's package clients ----

# bring PATH: puts a file or a folder of this machine at the same place there; folders are mounted, read-only.
bring() {
  if [ -e "$folder$1" ] || [ ! -e "$1" ]; then return; fi
  mkdir -p "$(dirname "$folder$1")"
  if [ -f "$1" ]; then
    cp -L "$1" "$folder$1"
  else
    mkdir "$folder$1"
    mount --bind "$1" "$folder$1"
    mount -o remount,bind,ro "$folder$1"
  fi
}

# bring_named TEXT: every path that it names; of an index of packages also what lies beside it, since its links lead there.
bring_named() {
  local path
  for path in $(grep -oE "(^|file://|[[:space:]='])/[^[:space:],:'\"]+" <<<"$1" | sed -E "s|^[^/]*(file://)?||"); do
    case $path in */simple | */simple/) path=$(dirname "$path") ;; esac
    bring "${path%/}"
  done
}

environment=(HOME=/home/fresh PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
mkdir -p "$folder/home/fresh"
# pip's files of settings, as lines global.key='value', become variables like those that are set already.
if settings=$(python3 -m pip config list 2>/dev/null); then
  while IFS='=' read -r key value; do
    value=${value:1:-1}
    key=${key#global.}
    key=${key^^}
    environment+=("PIP_${key//-/_}=${value//'\n'/ }")
    bring_named "$value"
  done < <(grep '^global\.' <<<"$settings")
fi
while IFS='=' read -r -d '' name value; do
  case $name in
    PIP_* | npm_config_* | NPM_CONFIG_* | *_proxy | *_PROXY | SSL_CERT_FILE | NODE_EXTRA_CA_CERTS | REQUESTS_CA_BUNDLE)
      environment+=("$name=$value")
      bring_named "$value"
      ;;
  esac
done < <(env -0)
if command -v npm >/dev/null; then
  for key in registry cafile proxy https-proxy noproxy strict-ssl; do
    value=$(npm config get "$key" 2>/dev/null)
    case $value in '' | null | undefined) continue ;; esac
    environment+=("npm_config_${key//-/_}=$value")
    bring_named "$value"
  done
fi

# ---- The commands ----

git clone --quiet --depth 1 "file://$root" "$folder/srv/sparsefire"
status=0
report=()
for command in "${commands[@]:0:count}"; do
  printf '\n$ %s\n' "$command"
  SECONDS=0
  chroot "$folder" env -i "${environment[@]}" bash -c "cd /srv/sparsefire && $command" </dev/null || status=$?
  report+=("$(printf '%d min %02d s, status %d: %s' $((SECONDS / 60)) $((SECONDS % 60)) "$status" "$command")")
  if [ "$status" -ne 0 ]; then break; fi
done
printf '\nOn a bare Debian 12, with %s cores and node %s:\n' "$(nproc)" "$(chroot "$folder" node --version || true)"
printf '%s\n' "${report[@]}"
exit "$status"
