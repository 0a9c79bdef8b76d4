# Functions for the scripts beside it, which source it.

# install_packages PACKAGE…: with apt-get, as root or through sudo.
install_packages() {
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi
  if ! command -v apt-get >/dev/null; then
    echo "$0: please install: $*" >&2
    exit 1
  fi
  echo "installing $*"
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# need_tool COMMAND PACKAGE…: installs the packages when there is no such command.
need_tool() {
  local command=$1
  shift
  command -v "$command" >/dev/null || install_packages "$@"
}

# find_python: prints the first Python on the path that is new enough.
find_python() {
  local python
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$python"
      return
    fi
  done
  echo "$0: Python 3.11 or newer is needed" >&2
  exit 1
}
