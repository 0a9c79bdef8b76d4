# Functions for the scripts beside it, which source it.

# install_packages PACKAGE…: with apt-get, as root or through sudo.
install_packages() {
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi
  if ! command -v "${sudo[@]}" apt-get >/dev/null; then
    echo "$0: please install: $*" >&2
    exit 1
  fi
  echo "installing $*"
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# need_tool COMMAND PACKAGE…: notes the packages when there is no such command, for install_missing.
missing_packages=()
need_tool() {
  local command=$1
  shift
  command -v "$command" >/dev/null || missing_packages+=("$@")
}

# need_file PATH PACKAGE…: the same for a file or a directory.
need_file() {
  local path=$1
  shift
  [ -e "$path" ] || missing_packages+=("$@")
}

# install_missing: installs what was noted, in one go.
install_missing() {
  if [ "${#missing_packages[@]}" -gt 0 ]; then install_packages "${missing_packages[@]}"; fi
  missing_packages=()
}

# find_python: prints the first Python on the path that is new enough.
find_python() {
  local python
  for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$python"
      return
    fi
  done
  echo "$0: Python 3.11 or newer is needed and not on the path; PYTHON=PROGRAM names one elsewhere" >&2
  exit 1
}

# check_node: exits unless node is new enough.
check_node() {
  local version
  version=$(node --version)
  version=${version#v}
  if [ "${version%%.*}" -lt 18 ]; then
    echo "$0: node 18 or newer is needed, and $(command -v node) is node $version" >&2
    exit 1
  fi
}
