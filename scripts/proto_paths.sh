# Sourced by the proto scripts: where Python is and what protoc searches.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}
# protoc finds the mypy plugins on the PATH.
PATH="$(cd "$(dirname "$PYTHON")" && pwd):$PATH"

# The well-known types come with grpcio-tools, google/api and google/rpc with
# googleapis-common-protos: nothing is fetched.
well_known=$("$PYTHON" -c 'import grpc_tools, pathlib; print(pathlib.Path(grpc_tools.__file__).parent / "_proto")')
googleapis=$("$PYTHON" -c 'import google.api, pathlib; print(pathlib.Path(list(google.api.__path__)[0]).parents[1])')

# protoc ROOT ARGUMENT…: runs protoc on all protos below ROOT.
run_protoc() {
  local root=$1
  shift
  (
    local python_root=$PWD
    cd "$root"
    case $PYTHON in /*) ;; *) PYTHON=$python_root/$PYTHON ;; esac
    "$PYTHON" -m grpc_tools.protoc -I. -I"$well_known" -I"$googleapis" "$@" $(find hma -name '*.proto' | LC_ALL=C sort)
  )
}
